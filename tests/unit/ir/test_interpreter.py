"""The interpreter computes what programs say, in bounded memory, and names what is wrong with its inputs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import ml_dtypes
import mlir.ir as mlir
import numpy as np
import pytest
from mlir.dialects import func

from warploom.errors import IRError
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder
from warploom.ir.interpreter import evaluate, evaluate_exports, loader
from warploom.ir.ops.elementwise import add, bitcast, cast, exp, mul, sub
from warploom.ir.ops.linear import linear
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.shape import full, iota, reshape, transpose
from warploom.ir.types import tensor
from warploom.ir.verify import verify

DIMS = {"T": DimRange(1, 8)}
F32 = np.float32


class Tracked(np.ndarray):
    """An array whose life can be watched."""


def tracked(array: np.ndarray, alive: list[weakref.ref[np.ndarray]]) -> np.ndarray:
    result = array.view(Tracked)
    alive.append(weakref.ref(result))
    return result


def num_alive(alive: list[weakref.ref[np.ndarray]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in alive)


@pytest.fixture
def affine(wl: mlir.Context) -> mlir.Module:
    """@step: y = x @ W^T + x's row sums' sign pattern replaced by a constant; names x, W, y."""
    module = mlir.Module.create()
    step = FunctionBuilder(module, "step", DIMS)
    x = step.input("x", tensor(("T", 3)))
    with step.point:
        product = linear(x, param(name="w", shape=(2, 3), dtype="f32"), n=2, layout="row")
        y = add(product, full(shape=("T", 2), value=0.5, dtype="f32"))
    step.finish({"y": y})
    verify(module)
    return module


def test_results_are_named_and_symbols_bound(affine: mlir.Module) -> None:
    x, w = np.arange(6, dtype=F32).reshape(2, 3), np.ones((2, 3), F32)
    np.testing.assert_array_equal(evaluate(affine, "step", {"x": x}, {"w": w})["y"], x @ w.T + 0.5)


@pytest.mark.parametrize(
    ("inputs", "params", "message"),
    [
        ({}, {"w": (2, 3)}, "wrong inputs of @step"),
        ({"x": (4, 3), "z": (1,)}, {"w": (2, 3)}, "wrong inputs of @step"),
        ({"x": (4,)}, {"w": (2, 3)}, "input x has the wrong type"),
        ({"x": (4, 5)}, {"w": (2, 3)}, "wrong shape"),
        ({"x": (4, 3)}, {}, "tensor w is missing"),
        ({"x": (4, 3)}, {"w": (3, 3)}, "wrong shape"),
        ({"x": (9, 3)}, {"w": (2, 3)}, "T is outside of its bounds"),
    ],
)
def test_wrong_data_is_named(
    affine: mlir.Module, inputs: dict[str, tuple[int, ...]], params: dict[str, tuple[int, ...]], message: str
) -> None:
    arrays = [{k: np.zeros(v, F32) for k, v in group.items()} for group in (inputs, params)]
    with pytest.raises(IRError, match=message):
        evaluate(affine, "step", *arrays)


def test_wrong_dtypes_and_functions_are_named(affine: mlir.Module) -> None:
    with pytest.raises(IRError, match="input x has the wrong type"):
        evaluate(affine, "step", {"x": np.zeros((4, 3), np.int32)}, {"w": np.zeros((2, 3), F32)})
    with pytest.raises(IRError, match="param w has the wrong type"):
        evaluate(affine, "step", {"x": np.zeros((4, 3), F32)}, {"w": np.zeros((2, 3), np.int32)})
    with pytest.raises(IRError, match="no function @sample"):
        evaluate(affine, "sample", {})


def test_values_die_after_their_last_use(wl: mlir.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of n ops with a dead op beside each link never holds more than a few arrays."""
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched(self: object, x: np.ndarray) -> np.ndarray:
        nonlocal most
        most = max(most, num_alive(alive))
        return tracked(x + 1, alive)

    monkeypatch.setattr(type(exp), "evaluate", watched)
    module = mlir.Module.create()
    step = FunctionBuilder(module, "step", DIMS)
    x = step.input("x", tensor(("T",)))
    with step.point:
        for _ in range(10):
            exp(x)  # dead
            x = exp(x)
    step.finish({"x": x})
    del x
    result = evaluate(module, "step", {"x": np.zeros(3, F32)})
    np.testing.assert_array_equal(result["x"], np.full(3, 10))
    assert most <= 3


@pytest.fixture
def prepare(wl: mlir.Context) -> mlir.Module:
    """@prepare: exports of one tensor each, one shared by two exports, one of a dead chain, one of half an op."""
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "prepare", {})
    with builder.point:
        shared = checkpoint(name="shared", shape=(4, 3), dtype="f32")
        transpose(checkpoint(name="dead", shape=(4, 3), dtype="f32"), permutation=(1, 0))
        for i in range(5):
            own = checkpoint(name=f"own{i}", shape=(4, 3), dtype="f32")
            export(mul(own, shared) if i in (0, 4) else add(own, own), name=f"p{i}")
        q, _scale = quantize(
            checkpoint(name="quantized", shape=(4, 3), dtype="f32"), dtype="i8", group=0, scale_dtype="f32"
        )
        export(q, name="q")
    builder.finish({})
    verify(module)
    return module


def test_exports_are_computed_one_by_one_in_bounded_memory(prepare: mlir.Module) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    loaded: list[str] = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return tracked(np.ones((4, 3), F32), alive)

    def exports() -> Iterator[tuple[str, np.ndarray]]:
        yield from evaluate_exports(prepare, load)

    names = []
    for name, array in exports():
        names.append(name)
        assert array.shape == (4, 3)
        del array
        assert num_alive(alive) <= 1  # the shared tensor
    assert names == ["p0", "p1", "p2", "p3", "p4", "q"]
    assert loaded == ["own0", "shared", "own1", "own2", "own3", "own4", "quantized"]  # each once, nothing dead
    assert num_alive(alive) == 0


def test_a_missing_checkpoint_tensor_is_named(prepare: mlir.Module) -> None:
    with pytest.raises(IRError, match="tensor own0 is missing"):
        next(evaluate_exports(prepare, loader({})))


def test_groups_are_called_with_the_callers_symbols(wl: mlir.Context) -> None:
    """A symbol that no argument of the group determines is the caller's."""
    module = mlir.Module.create()
    group = FunctionBuilder(module, "positions_0", DIMS, private=True)
    with group.point:
        made = iota(shape=("T",), axis=0)
    kind = group.finish({"0": made})
    step = FunctionBuilder(module, "step", DIMS)
    x = step.input("x", tensor(("T", 2)))
    with step.point:
        call = func.CallOp([made.type], kind.name, [])
    step.finish({"y": call.operation.results[0], "x": x})
    verify(module)
    result = evaluate(module, "step", {"x": np.zeros((5, 2), F32)})
    np.testing.assert_array_equal(result["y"], np.arange(5))


def test_an_error_inside_says_where(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    step = FunctionBuilder(module, "step", DIMS)
    with step.point, mlir.Location.name("model.layers.3.mlp"):
        p = param(name="w", shape=(2,), dtype="f32")
    step.finish({"p": p})
    with pytest.raises(IRError, match=r"@step: model\.layers\.3\.mlp: tensor w is missing"):
        evaluate(module, "step", {})


def test_narrow_dtypes_round_after_each_op_in_both_precisions(wl: mlir.Context) -> None:
    """(x + 2^-9) - x in bf16 is 0 for x = 1, whatever the precision of the arithmetic."""
    module = mlir.Module.create()
    step = FunctionBuilder(module, "step", DIMS)
    x, d = (step.input(n, tensor(("T",), "bf16")) for n in ("x", "d"))
    with step.point:
        wide = sub(add(cast(x, dtype="f32"), cast(d, dtype="f32")), cast(x, dtype="f32"))
        step_results = {"narrow": sub(add(x, d), x), "wide": wide}
    step.finish(step_results)
    data = {"x": np.array([1], ml_dtypes.bfloat16), "d": np.array([2**-9], ml_dtypes.bfloat16)}
    for compute in (np.float32, np.float64):
        result = evaluate(module, "step", data, compute=compute)
        assert result["narrow"] == 0
        assert result["wide"] == 2**-9
        assert result["wide"].dtype == compute


@pytest.mark.parametrize("compute", [np.float32, np.float64])
def test_bits_are_those_of_single_precision(wl: mlir.Context, compute: type[np.floating]) -> None:
    module = mlir.Module.create()
    step = FunctionBuilder(module, "step", DIMS)
    x = step.input("x", tensor(()))
    with step.point:
        bits = bitcast(x, dtype="i32")
        back = reshape(bitcast(bits, dtype="f32"), shape=(1,))
    step.finish({"bits": bits, "back": back})
    result = evaluate(module, "step", {"x": np.array(1.5, F32)}, compute=compute)
    assert result["bits"] == 0x3FC00000
    assert result["back"] == 1.5
