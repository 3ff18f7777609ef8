"""The native entry: expressions as the runtime evaluates them, launches with the right pointers, dims and tiles."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.entry import declare_pool, emit_entry
from warploom.codegen.cpu.isa import X86_64_V3
from warploom.codegen.cpu.values import convert_int
from warploom.codegen.expressions import substitute
from warploom.runtime.expr import Expr, evaluate, names
from warploom.runtime.plan import Buffer, DimRange, Entry, Launch

DIMS = {"T": DimRange(0, 100), "S": DimRange(0, 100)}
NUM_ARGS = 64


def library_of(entry: Entry, path: Path) -> ctypes.CDLL:
    """`record` writes its dims, then its number of tiles, to its last operand."""
    library = Library(X86_64_V3)
    declare_pool(library)
    with library.kernel("record", {"out": "i64"}, [f"d{i}" for i in range(NUM_ARGS)]) as k, k.tiles() as tile:
        for position, value in enumerate(k.dims.values()):
            k.operands["out"][position] = value
        k.operands["out"][NUM_ARGS] = tile + 1
    with library.kernel("mark", {"x": "i64", "y": "i8"}) as k, k.tiles() as tile:
        k.operands["x"][tile] = convert_int(k.operands["y"][0], "i64")
    emit_entry(library, "step", entry)
    toolchain.build_shared_object(library, path)
    loaded = ctypes.CDLL(str(path))
    loaded.wl_pool_create.restype = ctypes.c_void_p
    return loaded


def run(library: ctypes.CDLL, arena: np.ndarray, buffers: list[np.ndarray], dims: list[int]) -> None:
    pool = ctypes.c_void_p(library.wl_pool_create(1, ctypes.c_int64(64)))
    table = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
    status = library.wl_step(pool, ctypes.c_void_p(arena.ctypes.data), table, (ctypes.c_int64 * len(dims))(*dims))
    library.wl_pool_destroy(pool)
    assert status == 0


EXPRESSIONS = st.recursive(
    st.integers(-3, 70) | st.sampled_from(sorted(DIMS)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, st.sampled_from([1, 7, 64, -5])).map(lambda p: f"({p[0]}) // {p[1]}"),
        st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]}, S)"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=5)
@given(
    expressions=st.lists(EXPRESSIONS, min_size=NUM_ARGS, max_size=NUM_ARGS), t=st.integers(1, 100), s=st.integers(0, 9)
)
def test_expressions_mean_what_the_runtime_says(
    tmp_path_factory: object, expressions: list[Expr], t: int, s: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("entry")  # type: ignore[attr-defined]
    launch = Launch("record", ["out"], expressions, "T", "")
    entry = Entry(DIMS, ["out"], [Buffer("out", "input", "i64", [NUM_ARGS + 1])], [launch], 0)
    out = np.zeros(NUM_ARGS + 1, np.int64)
    run(library_of(entry, folder / "step.so"), np.zeros(1), [out], [t, s])
    dims = {"T": t, "S": s}
    assert out.tolist() == [evaluate(e, dims) for e in expressions] + [t]


@given(EXPRESSIONS, EXPRESSIONS, st.integers(-9, 9), st.integers(-9, 9))
def test_substitution_evaluates_the_same(outer: Expr, inner: Expr, t: int, s: int) -> None:
    dims = {"T": t, "S": s}
    result = substitute(outer, {"T": inner, "S": 3})
    assert evaluate(result, dims) == evaluate(outer, {"T": evaluate(inner, dims), "S": 3})
    assert isinstance(result, int) or names(result)


def test_folding_shortens_what_is_constant() -> None:
    assert substitute("(N + 11) // 12 * 3", {"N": 24}) == 6
    assert substitute("2 * L * C + 0", {"L": 0, "C": "C"}) == 0
    assert substitute("1 * N // 1 - 0", {"N": "S + 1"}) == "S + 1"


def test_launches_get_their_own_pointers(tmp_path: Path) -> None:
    """Two inputs, a place in the arena and a view, in launches that share some arguments; one has no tiles."""
    buffers = [
        Buffer("a", "input", "i64", ["T"]),
        Buffer("b", "input", "i8", [64]),
        Buffer("t", "temp", "i64", ["T"], offset="64 * S"),
        Buffer("b + S", "view", "u8", ["64 - S"], offset="S", aliases="b"),
    ]
    launches = [
        Launch("mark", ["a", "b"], [], "T", "first"),
        Launch("mark", ["t", "b"], [], 1, "second"),
        Launch("mark", ["t", "b + S"], [], "T - 2", "third"),
        Launch("mark", ["a", "b + S"], [], "S - 2", "none"),
    ]
    library = library_of(Entry(DIMS, ["a", "b"], buffers, launches, "64 * S + 8 * T"), tmp_path / "step.so")
    a, b, arena = np.zeros(4, np.int64), np.arange(10, 74, dtype=np.int8), np.zeros(32, np.int64)
    run(library, arena, [a, b], [4, 2])
    assert a.tolist() == [10] * 4
    assert arena[16:20].tolist() == [12, 12, 0, 0]
    assert not arena[:16].any()
