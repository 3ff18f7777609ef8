"""Groups as the fusion pass makes them: what their kernels compute, keep invariant, vectorize, and refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import mlir.ir as mlir
import numpy as np

from tests.unit.codegen.cpu_harness import on_every_isa
from tests.unit.codegen.loops_groups import Case, GroupBuilder, compile_all, finish
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import X86_64_V4, Isa
from warploom.codegen.cpu.kernels.loops import LoopsSpec, match
from warploom.ir.function import scope
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import add, cast, cos, div, exp, maximum, mul, neg, sin, sub
from warploom.ir.ops.reduce import argmax, dot_general, reduce_max, reduce_sum, sort, top_k
from warploom.ir.ops.shape import (
    broadcast,
    concat,
    constant,
    gather,
    iota,
    pad,
    reshape,
    scatter,
    slice_axis,
    transpose,
)
from warploom.ir.types import tensor, type_of
from warploom.runtime.expr import evaluate as evaluate_expr

Body = Callable[[GroupBuilder], mlir.Value | Sequence[mlir.Value]]


def group(name: str, body: Body, **dims: int) -> Case:
    """A group in a module of its own; the dims say how large its data are."""
    builder = GroupBuilder(mlir.Module.create(), name, seed=1)
    builder.env |= dims
    with builder.point:
        made = body(builder)
    return finish(builder, made if isinstance(made, Sequence) else [made])


def floats(b: GroupBuilder, *shape: int | str, dtype: str = "f32") -> mlir.Value:
    return b.input(tensor(shape, dtype), -4, 4)


def rotate_half(b: GroupBuilder, size: int, dtype: str = "f32") -> mlir.Value:
    """x * cos + concat(-x2, x1) * sin, from packed [T, 3, size] rows, transposed to [3, T, size]."""
    x = cast(
        transpose(reshape(floats(b, "T", 3 * size, dtype=dtype), shape=("T", 3, size)), permutation=(1, 0, 2)),
        dtype="f32",
    )
    low, high = (slice_axis(x, axis=2, start=s, stop=s + size // 2) for s in (0, size // 2))
    turned = concat(neg(high), low, axis=2)
    cos, sin = (broadcast(floats(b, "T", size), shape=(3, "T", size), dims=(1, 2)) for _ in range(2))
    return add(mul(x, cos), mul(turned, sin))


def normalized(b: GroupBuilder, size: int) -> mlir.Value:
    """exp(x - max) / sum, max and sum given."""
    x = floats(b, "T", size)
    top, total = (broadcast(b.input(tensor(("T",)), 1, 4), shape=("T", size), dims=(0,)) for _ in range(2))
    return div(exp(sub(x, top)), total)


def window(b: GroupBuilder) -> mlir.Value:
    """Slices, padding and a transposition that leave no vector whole."""
    x = pad(floats(b, "T", 19), axis=1, low=2, high=3, value=0.5)
    y = transpose(slice_axis(x, axis=1, start=1, stop=20), permutation=(1, 0))
    return cast(concat(y, neg(y), floats(b, 5, "T"), axis=0), dtype="bf16")


def row_of_logits(b: GroupBuilder) -> mlir.Value:
    indices = b.input(tensor(("S",), "i32"), -2, 40)
    return mul(gather(floats(b, "T", 48), indices), floats(b, "S", 48))


def integers(*values: int) -> mlir.Value:
    return constant(value=np.array(values, np.int32))


def some_rows() -> mlir.Value:
    """Distinct indices, one of them negative."""
    return add(iota(shape=(9,), axis=0), integers(*range(-3, 24, 3)))


def table_row(size: int) -> mlir.Value:
    """A constant row, repeated."""
    return broadcast(constant(value=np.linspace(-1, 1, size, dtype=np.float32)), shape=("T", size), dims=(1,))


def rotations(b: GroupBuilder) -> list[mlir.Value]:
    """Three results of one shape: what they have in common is computed in the same loops."""
    angles = mul(floats(b, "T", 17), floats(b, "T", 17))
    turned = cast(reshape(transpose(angles, permutation=(1, 0)), shape=("T", 17)), dtype="bf16")
    return [cos(angles), cast(angles, dtype="bf16"), add(sin(angles), cast(turned, dtype="f32"))]


SHAPES: dict[str, Body] = {
    "rotations": rotations,
    "rotate_64": lambda b: rotate_half(b, 64),
    "rotate_half_precision": lambda b: rotate_half(b, 32, "f16"),
    "rotate_odd": lambda b: rotate_half(b, 6),
    "softmax_tail": lambda b: normalized(b, 35),
    "window": window,
    "gathered_rows": row_of_logits,
    "scalars": lambda b: maximum(floats(b), floats(b)),
    "outer_product": lambda b: mul(
        broadcast(floats(b, "T"), shape=("T", "S"), dims=(0,)), broadcast(floats(b, "S"), shape=("T", "S"), dims=(1,))
    ),
    "contraction_of_two": lambda b: dot_general(
        floats(b, "T", 4, 16), floats(b, 4, 16, 40), x_contract=(1, 2), y_contract=(0, 1), x_batch=(), y_batch=()
    ),
    "attention_scores": lambda b: dot_general(
        floats(b, "T", 3, 64), floats(b, "S", 3, 64), x_contract=(2,), y_contract=(2,), x_batch=(1,), y_batch=(1,)
    ),
    "outer_sums": lambda b: reduce_sum(floats(b, 9, "T", 33), axis=0),
    "row_sums": lambda b: reduce_sum(mul(floats(b, "T", 333), floats(b, "T", 333)), axis=1),
    "sums_over_symbol": lambda b: reduce_sum(transpose(floats(b, "T", "S"), permutation=(1, 0)), axis=1),
    "argmax_of_ties": lambda b: argmax(cast(cast(floats(b, "T", 70), dtype="i32"), dtype="f32")),
    "long_rows": lambda b: exp(floats(b, "T", 5000)),
    "sorted": lambda b: sort(cast(floats(b, "T", 300), dtype="i32")),
    "top": lambda b: top_k(floats(b, "T", 1000), k=20),
    "top_indices": lambda b: top_k(cast(floats(b, "T", 50), dtype="i32"), k=7)[1],
    "scattered": lambda b: scatter(floats(b, 40, 24), some_rows(), exp(floats(b, 9, 24))),
    "scattered_scalars": lambda b: scatter(floats(b, 700), integers(699, 3, -1), floats(b, 3)),
    "table": lambda b: add(floats(b, "T", 20), table_row(20)),
    "narrow_table": lambda b: constant(value=np.linspace(-1, 1, 21).astype(np.float16)),
}


@on_every_isa
def test_groups_of_a_model(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    cases = [
        group(f"{name}_{tokens}", body, T=tokens, S=rows)
        for name, body in SHAPES.items()
        for tokens, rows in ((1, 1), (3, 17), (50, 5))
    ]
    kernels = compile_all(cases, isa, tmp_path)
    assert all([c.check(kernels[c.name]) for c in cases])


def result(case: Case, kernel: Callable[..., None], split: int | None = None) -> np.ndarray:
    (array,) = case.run(kernel, split).values()
    return array


def with_rows(case: Case, rows: slice) -> Case:
    """The same group on some of its T rows; inputs without T are as they were."""
    arguments = case.function.inputs
    kept = {n: a[rows] if str(type_of(arguments[n]).shape[0]) == "T" else a for n, a in case.arrays.items()}
    return dataclasses.replace(case, arrays=kept, env=case.env | {"T": rows.stop - rows.start})


@on_every_isa
def test_results_depend_on_neither_tiles_nor_other_rows(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    names = ("softmax_tail", "row_sums", "long_rows", "contraction_of_two", "sorted", "table")
    cases = [group(name, SHAPES[name], T=37, S=5) for name in names]
    kernels = compile_all(cases, isa, tmp_path)
    for c in cases:
        kernel = kernels[c.name]
        whole = result(c, kernel)
        np.testing.assert_array_equal(result(c, kernel, split=1), whole)
        np.testing.assert_array_equal(result(with_rows(c, slice(20, 21)), kernel), whole[20:21])
        np.testing.assert_array_equal(result(with_rows(c, slice(3, 36)), kernel), whole[3:36])


@on_every_isa
def test_order_of_extremes(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    """NaN wins maxima, the lowest index wins ties, and rows of -inf have a first element."""
    cases = [
        group("largest", lambda b: reduce_max(floats(b, "T", 40), axis=1), T=4),
        group("where", lambda b: argmax(floats(b, "T", 40)), T=4),
        group("best", lambda b: top_k(floats(b, "T", 40), k=3), T=4),
        group("either", lambda b: maximum(floats(b, "T", 40), floats(b, "T", 40)), T=4),
    ]
    kernels = compile_all(cases, isa, tmp_path)
    x = np.zeros((4, 40), np.float32)
    x[0] = -np.inf
    x[1, [7, 23, 39]] = 2.0
    x[2, 35] = np.nan
    x[3, 39] = 1e30
    for c in cases:
        c.arrays["0"][:] = x
    np.testing.assert_array_equal(result(cases[0], kernels["largest"]), x.max(1))
    np.testing.assert_array_equal(result(cases[1], kernels["where"])[[0, 1, 3]], [0, 7, 39])
    values, indices = cases[2].run(kernels["best"]).values()
    np.testing.assert_array_equal(indices[[0, 1, 3]], [[0, 1, 2], [7, 23, 39], [39, 0, 1]])
    np.testing.assert_array_equal(values[[0, 1, 3]], np.take_along_axis(x, indices, 1)[[0, 1, 3]])
    np.testing.assert_array_equal(result(cases[3], kernels["either"]), np.maximum(x, cases[3].arrays["1"]))


def source(case: Case) -> str:
    library = Library(X86_64_V4)
    case.match.spec.emit(library)
    return library.source(case.match.spec.name)


def test_contiguous_data_are_read_in_vectors(wl: mlir.Context) -> None:
    for name in ("attention_scores", "softmax_tail", "row_sums", "table", "outer_sums", "long_rows"):
        assert "-> vector<16xf32>" in source(group(name, SHAPES[name]))
    for name in ("rotate_64", "gathered_rows"):  # rows are whole vectors: nothing is left for scalar code
        stored = [line for line in source(group(name, SHAPES[name])).splitlines() if "llvm.store" in line]
        assert stored
        assert all("vector<16xf32>" in line for line in stored)


def test_elementwise_groups_are_one_flat_loop(wl: mlir.Context) -> None:
    def body(b: GroupBuilder) -> mlir.Value:
        x, y = floats(b, "T", 3, 5), floats(b, "T", 15)
        return neg(reshape(add(reshape(x, shape=("T", 15)), y), shape=("T", 5, 3)))

    text = source(group("flat", body))
    assert "vector<16xf32>" in text
    assert text.count("scf.for") == 4  # tiles, one row, vectors, rest


def test_equal_groups_are_one_kernel(wl: mlir.Context) -> None:
    def elsewhere(b: GroupBuilder) -> mlir.Value:
        with scope("model.layers.7"):
            return normalized(b, 35)

    one, other = group("a", SHAPES["softmax_tail"]), group("b", elsewhere)
    assert one.match.spec == other.match.spec
    assert hash(one.match.spec) == hash(other.match.spec)
    longer = group("c", lambda b: normalized(b, 36)).match.spec
    assert longer != one.match.spec
    assert longer.name != one.match.spec.name
    assert longer.name.startswith("loops_div_")
    assert longer.name.isidentifier()


def test_costs_are_stated(wl: mlir.Context) -> None:
    def spec(name: str) -> LoopsSpec:
        found = group(name, SHAPES[name]).match.spec
        assert isinstance(found, LoopsSpec)
        return found

    dims = {"T": 6, "S": 4}
    assert evaluate_expr(spec("attention_scores").flops, dims) == 2 * 6 * 4 * 3 * 64
    assert evaluate_expr(spec("attention_scores").bytes, dims) == 4 * (6 * 3 * 64 + 4 * 3 * 64 + 3 * 6 * 4)
    assert evaluate_expr(spec("gathered_rows").bytes, dims) == 4 * (4 + 3 * 4 * 48)  # rows read, not the whole table
    assert evaluate_expr(spec("long_rows").tiles, dims) >= 6
    assert spec("top").scratch_bytes == 20 * 8
    assert str(spec("top")).startswith("top_k -> ")


def refused(name: str, body: Body) -> str:
    builder = GroupBuilder(mlir.Module.create(), name, seed=1)
    with builder.point:
        made = body(builder)
    values = made if isinstance(made, Sequence) else [made]
    found = match(builder.builder.finish({str(i): v for i, v in enumerate(values)}))
    assert isinstance(found, str)
    return found


def test_refusals_name_the_reason(wl: mlir.Context) -> None:
    x = lambda b: floats(b, "T", 8)  # noqa: E731
    assert "reduce_sum cannot be inlined" in refused("softmax", lambda b: neg(reduce_sum(x(b), axis=1)))
    assert "2 roots" in refused("shapes", lambda b: [neg(x(b)), exp(floats(b, "T", 4))])
    assert "2 roots" in refused("fold", lambda b: [reduce_sum(x(b), axis=1), reduce_max(x(b), axis=1)])
    assert "one of its inputs" in refused("identity", x)
    assert "returns a value twice" in refused("twice", lambda b: [neg(x(b))] * 2)
    assert "wl.swiglu is no core op" in refused("composite", lambda b: neg(swiglu(x(b), x(b))))
