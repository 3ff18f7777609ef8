"""CUDA kernels of core-op groups in Triton's interpreter against the interpreter of the IR, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlir.ir as mlir
import numpy as np
import pytest

from tests.tolerances import assert_close, sensitivity
from tests.unit.codegen.loops_groups import GroupBuilder
from tests.unit.codegen.test_cpu_loops import CORE_OPS, INLINED, MOVES
from tests.unit.codegen.test_cpu_loops_groups import SHAPES, Body, floats
from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match
from warploom.codegen.cuda.kernels.loops import match
from warploom.ir.dims import DimRange
from warploom.ir.function import Function
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import neg
from warploom.ir.ops.reduce import argmax, cumsum, reduce_max, top_k
from warploom.ir.ops.shape import constant, gather
from warploom.ir.types import tensor, type_of
from warploom.runtime.expr import evaluate as evaluate_expr

TARGET = CudaTarget("sm_80")  # without programmatic dependent launch, which the interpreter does not know


@dataclass(frozen=True)
class Group:
    """A group function, its kernels and its data."""

    module: mlir.Module
    function: Function
    match: Match
    arrays: dict[str, np.ndarray]
    env: dict[str, int]

    def run(self) -> dict[str, np.ndarray]:
        types = {name: type_of(value) for name, value in self.function.results.items()}
        results = {n: np.full(t.resolve(self.env), 7, t.dtype.numpy) for n, t in types.items()}
        sides = {"input": list(self.arrays.values()), "result": list(results.values())}
        (variant,) = self.match.variants
        for step in variant.steps:
            dims = {name: evaluate_expr(step.dims[name], self.env) for name in step.spec.dims}
            run_kernel(step.spec, [sides[slot.side][slot.index] for slot in step.operands], dims)
        return results

    def check(self) -> bool:
        """Compare kernels and meaning; False if a decision in the program hangs on rounding."""
        expected = evaluate(self.module, self.function.name, self.arrays)
        exact = evaluate(self.module, self.function.name, self.arrays, compute=np.float64)
        actual = self.run()
        for name, value in self.function.results.items():
            dtype = type_of(value).dtype
            loss = sensitivity(expected[name], exact[name], dtype)
            if loss is None:
                return False
            assert_close(actual[name], expected[name], dtype, loss)
        return True


def group_of(builder: GroupBuilder, results: Sequence[mlir.Value]) -> Group | str:
    bound = {d for argument in builder.point.block.arguments for d in type_of(argument).shape}
    for symbol in sorted({"T", "S"} - set(map(str, bound))):  # only shapes of inputs tell what symbols are
        builder.input(tensor((symbol,)), 0, 1)
    function = builder.builder.finish({str(i): v for i, v in enumerate(results)})
    found = match(function, TARGET)
    if isinstance(found, str):
        return found
    return Group(builder.module, function, found, builder.arrays, builder.env)


def made(name: str, body: Body, **dims: int) -> Group | str:
    builder = GroupBuilder(mlir.Module.create(), name, seed=1)
    builder.env |= dims
    with builder.point:
        results = body(builder)
    return group_of(builder, results if isinstance(results, Sequence) else [results])


def taken(found: Group | str) -> Group:
    assert isinstance(found, Group), found
    return found


@pytest.mark.parametrize("op", CORE_OPS)
def test_every_core_op_alone(wl: mlir.Context, op: str) -> None:
    decided = False
    for seed in range(3):
        builder = GroupBuilder(mlir.Module.create(), f"{op}_{seed}", seed)
        with builder.point:
            results = builder.build(op)
        found = group_of(builder, results)
        if op in ("cumsum", "sort") and isinstance(found, str):
            assert "must be static" in found
            decided = True
        else:
            decided |= taken(found).check()
    assert decided


@pytest.mark.parametrize("seed", range(12))
def test_chains_inlined_into_one_root(wl: mlir.Context, seed: int) -> None:
    builder = GroupBuilder(mlir.Module.create(), f"chain_{seed}", seed)
    roots = [op for op in CORE_OPS if op not in ("cumsum", "sort")]
    with builder.point:
        for _ in range(builder.integer(1, 8)):
            builder.keep(*builder.build(builder.choice(builder.choice([INLINED, MOVES]))))
        results = builder.build(builder.choice(roots))
    taken(group_of(builder, results)).check()


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "long_rows"])
def test_groups_of_a_model(wl: mlir.Context, name: str) -> None:
    for tokens, rows in ((1, 1), (5, 17)):
        assert taken(made(name, SHAPES[name], T=tokens, S=rows)).check()


def test_order_of_extremes(wl: mlir.Context) -> None:
    """NaN wins maxima, the lowest index wins ties, and rows of -inf have a first element."""
    x = np.zeros((4, 40), np.float32)
    x[0] = -np.inf
    x[1, [7, 23, 39]] = 2.0
    x[2, 35] = np.nan
    x[3, 39] = 1e30

    def result(body: Callable[[mlir.Value], mlir.Value]) -> list[np.ndarray]:
        group = taken(made("extremes", lambda b: body(floats(b, "T", 40)), T=4))
        group.arrays["0"][:] = x
        return list(group.run().values())

    np.testing.assert_array_equal(result(lambda v: reduce_max(v, axis=1))[0], x.max(1))
    np.testing.assert_array_equal(result(argmax)[0][[0, 1, 3]], [0, 7, 39])
    values, indices = result(lambda v: top_k(v, k=3))
    np.testing.assert_array_equal(indices[[0, 1, 3]], [[0, 1, 2], [7, 23, 39], [39, 0, 1]])
    np.testing.assert_array_equal(values[[0, 1, 3]], np.take_along_axis(x, indices, 1)[[0, 1, 3]])


def test_positions_are_wide_where_they_may_be_large(wl: mlir.Context) -> None:
    def rows(b: GroupBuilder) -> mlir.Value:
        return gather(floats(b, "T", 8), b.input(tensor(("S",), "i32"), 0, 3))

    small = taken(made("small", rows))
    builder = GroupBuilder(mlir.Module.create(), "large", seed=1)
    builder.builder._operation.attributes["wl.dims"] = mlir.Attribute.parse(
        "{S = array<i64: 1, 64, 1>, T = array<i64: 1, 1073741824, 1>}"
    )
    with builder.point:
        large = taken(group_of(builder, [rows(builder)]))
    assert DimRange(1, 1 << 30) == large.function.dims["T"]
    specs = [g.match.variants[0].steps[0].spec for g in (small, large)]
    assert ["int64" in spec.source() for spec in specs] == [False, True]
    assert specs[0].name != specs[1].name
    assert large.check()


def test_refusals_name_the_reason(wl: mlir.Context) -> None:
    def refused(body: Body) -> str:
        found = made("refused", body)
        assert isinstance(found, str)
        return found

    assert "must be static" in refused(lambda b: cumsum(floats(b, "T", "S")))
    assert "at most 8192" in refused(lambda b: cumsum(floats(b, "T", 10000)))
    assert "k must be at most 64" in refused(lambda b: top_k(floats(b, "T", 1000), k=100))
    assert "at most 1024 elements" in refused(lambda b: neg(constant(value=np.ones(2000, np.float32))))
    assert "wl.swiglu is no core op" in refused(lambda b: neg(swiglu(floats(b, "T", 8), floats(b, "T", 8))))
