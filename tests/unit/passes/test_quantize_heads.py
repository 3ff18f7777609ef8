"""Weights of products by head in int8: where, what they mean, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import mlir.ir as mlir
import numpy as np
import pytest

from tests.targets import EAGER
from warploom.codegen.cpu.target import CPU
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, functions, scope
from warploom.ir.interpreter import evaluate, evaluate_exports, loader
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.shape import reshape
from warploom.ir.target import Target
from warploom.ir.types import DType, tensor, type_of
from warploom.ir.verify import verify
from warploom.passes.decisions import recorded
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_heads import quantize_heads
from warploom.passes.quantize_weights import quantize_weights

HEADS, N, K = 4, 32, 48
NAME = "model.layers.0.self_attn.kv_b_proj.weight"
GPU = replace(EAGER, name="cuda:sm_90")


def program() -> mlir.Module:
    """One product, of a weight that is a view of a parameter."""
    module = mlir.Module.create()
    prepare, builder = FunctionBuilder(module, "prepare", {}), FunctionBuilder(module, "step", {"T": DimRange(1, 64)})
    shape = (HEADS, N, K)
    with prepare.point:
        export(checkpoint(name=NAME, shape=shape, dtype="f32"), name=NAME)
    x = builder.input("x", tensor(("T", HEADS, K)))
    with builder.point, scope("model.layers.0.self_attn"):
        weight = reshape(param(name=NAME, shape=shape, dtype="f32"), shape=(HEADS * N, K))
        y = head_linear(x, weight, n=N)
    builder.finish({"y": y})
    prepare.finish({})
    verify(module)
    return module


def stored(rules: str | dict[str, str], target: Target = CPU) -> tuple[DType, list[str]]:
    """What the weight is stored as, and what was decided."""
    module = program()
    quantize_heads(module, Rules(rules), target)
    quantize_weights(module, Rules(rules))
    verify(module)
    step = functions(module)["step"]
    (operation,) = (op for op in step.ops if op.name == "wl.head_linear")
    return type_of(operation.operands[1]).dtype, recorded(step)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("rules", ["int8", "int4", "fp8", "int4:g64:zeros"])
def test_every_scheme_of_few_bits_stores_them_in_int8(rules: str) -> None:
    dtype, decisions = stored(rules)
    assert dtype is DType.I8
    (line,) = decisions
    assert line.startswith("model.layers.0.self_attn: head_linear: int8 (saves ")


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(
    ("rules", "dtype"),
    [("bf16", "bf16"), ("f32", "f32"), ("checkpoint", "bf16"), ({"*.kv_b_proj": "bf16", "*": "int8"}, "bf16")],
    ids=str,
)
def test_other_schemes_decide_nothing(rules: str | dict[str, str], dtype: str) -> None:
    assert stored(rules) == (DType(dtype), [])


@pytest.mark.usefixtures("wl")
def test_without_a_kernel_they_stay_bf16_and_it_is_said_what_that_costs() -> None:
    dtype, (line,) = stored("int8", GPU)
    assert dtype is DType.BF16
    assert "bf16, cuda:sm_90 has no kernel of int8 (saves " in line


@pytest.mark.usefixtures("wl")
def test_numbers_mean_what_they_round_and_work_is_done_ahead() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (HEADS, N, K)).astype(np.float32) / 512
    weight[..., 0] = 127 / 512  # so that eight bits hold every row
    x = rng.standard_normal((5, HEADS, K)).astype(np.float32)

    def result(module: mlir.Module) -> np.ndarray:
        params = dict(evaluate_exports(module, loader({NAME: weight})))
        return evaluate(module, "step", {"x": x}, params)["y"]

    module = program()
    expected = result(module)
    assert list(run(module, pipeline(CPU, "int8")))
    assert {op.name for op in functions(module)["step"].ops} == {"wl.param", "func.call"}
    kernels = [f.operation.attributes["wl.kind"].value for f in functions(module).values() if f.is_private]
    assert kernels == ["head_linear"]
    np.testing.assert_allclose(result(module), expected, rtol=1e-5, atol=1e-6)
