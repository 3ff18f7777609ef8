"""The residual stream of a narrow bf16 model in f32: nearer to the exact numbers, nothing else touched."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.codegen.test_cuda_kernels_llama import step_inputs
from tests.unit.passes.tiny_llama import CONFIG, random_tensors, traced
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import require
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import print_module
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.parameters import param
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, tensor, type_of
from warploom.ir.verify import verify
from warploom.passes import keep_sums_wide as pass_module
from warploom.passes.dce import dce
from warploom.passes.keep_sums_wide import keep_sums_wide

SIZES = {**CONFIG, "num_hidden_layers": 2}


def narrow(**changes: Any) -> mlir.Module:
    """A tiny Llama with bf16 activations."""
    config = {**SIZES, **changes}
    cache, limits = CacheSpec(64, DType.BF16, "token_major"), Limits(32, 8, 256)
    return trace(config, partial(require, random_tensors(config)), cache, limits, activation=DType.BF16)


def logits(module: mlir.Module) -> np.ndarray:
    """Of a ragged step."""
    tensors = random_tensors(SIZES)
    params = dict(evaluate_exports(module, lambda name: tensors[name].load()))
    return evaluate(module, "step", step_inputs([(3, 20), (1, 65), (6, 6)]), params)["logits"]


def sums(module: mlir.Module) -> list[DType]:
    """Dtypes of what residuals are added to."""
    adds = [op for op in functions(module)["step"].ops if is_op(op, add)]
    return [type_of(op.results[0]).dtype for op in adds]


def _is_bf16(value: mlir.Value) -> bool:
    """In itself, or widened."""
    widening = producer(value, cast)
    return DType.BF16 in (type_of(value).dtype, widening and type_of(widening.operands[0]).dtype)


@pytest.mark.usefixtures("wl")
def test_sums_are_f32_and_what_is_multiplied_is_bf16() -> None:
    module = narrow()
    assert set(sums(module)) == {DType.BF16}
    keep_sums_wide(module)
    dce(module)
    verify(module)
    assert sums(module) == [DType.F32] * 2 * SIZES["num_hidden_layers"]
    linears = [op for op in functions(module)["step"].ops if is_op(op, linear)]
    assert all(_is_bf16(op.operands[0]) for op in linears)


@pytest.mark.usefixtures("wl")
def test_the_error_shrinks() -> None:
    cache, limits = CacheSpec(64, DType.BF16, "token_major"), Limits(32, 8, 256)
    exact = logits(trace(SIZES, partial(require, random_tensors(SIZES)), cache, limits, activation=DType.F32))
    module = narrow()
    before = np.abs(logits(module) - exact)
    keep_sums_wide(module)
    after = np.abs(logits(module) - exact)
    assert np.sqrt((after**2).mean()) < 0.8 * np.sqrt((before**2).mean())


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("case", ["f32", "wide", "again"])
def test_what_is_left_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with f32 activations, wide ones, and those that have been through the pass."""
    module = traced() if case == "f32" else narrow()
    if case == "wide":
        monkeypatch.setattr(pass_module, "WIDEST", SIZES["hidden_size"] - 1)
    if case == "again":
        keep_sums_wide(module)
        dce(module)
    before = print_module(module)
    keep_sums_wide(module)
    assert print_module(module) == before


@pytest.mark.usefixtures("wl")
def test_a_product_that_others_read_too_is_not_computed_twice() -> None:
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 4)})
    x = builder.input("x", tensor(("T", 8)))
    with builder.point:
        gain = param(name="gain", shape=(8,), dtype="f32")
        weight = param(name="weight", shape=(8, 8), dtype="bf16")
        rows = cast(x, dtype="bf16")
        product = linear(rms_norm(rows, gain, eps=1e-5), weight, n=8, layout="row")
        total = rms_norm(add(rows, product), gain, eps=1e-5)
    function = builder.finish({"total": total, "product": product})
    keep_sums_wide(module)
    dce(module)
    verify(module)
    assert set(sums(module)) == {DType.F32}
    assert sum(is_op(op, linear) for op in function.ops) == 1
