"""Weights whose columns are sorted by group: what becomes of their order in models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import mlir.ir as mlir
import numpy as np
import pytest

from tests.targets import EAGER
from tests.unit.passes.test_quantization import INT4, logits, stored
from tests.unit.passes.tiny_llama import CACHE, CONFIG, LAYERS, LIMITS, random_tensors
from warploom.codegen.cpu.target import CPU
from warploom.frontend.tensors import LazyTensor, require
from warploom.frontend.trace import trace
from warploom.ir.function import FunctionBuilder, functions
from warploom.ir.ops.columns import place_columns, take_columns
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.linear import linear
from warploom.ir.ops.parameters import param
from warploom.ir.ops.quantize import quantize, quantize_affine
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.ops.shape import constant, slice_axis
from warploom.ir.rewrite import is_op
from warploom.ir.target import Target
from warploom.ir.types import tensor as type_tensor
from warploom.ir.verify import verify
from warploom.passes.decisions import recorded
from warploom.passes.order_inputs import order_inputs
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.scheme import Rules

KEPT = {"lm_head": "f32", "*": "checkpoint"}
INPUTS = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}
Tensors = dict[str, LazyTensor]


def sorted_by_group(tensors: Mapping[str, LazyTensor], inputs: Mapping[str, str]) -> Tensors:
    """Quantized tensors as GPTQ makes them: modules of one input have one order; `whole` is what parts stand for."""
    rng, orders, result = np.random.default_rng(0), {}, dict(tensors)
    for name, tensor in tensors.items():
        if not tensor.parts:
            continue
        layer, module = name.split(".")[2], name.split(".")[-2]
        key = layer, inputs.get(module, module)
        if key not in orders:
            array = rng.permutation(tensor.shape[1]).astype(np.int32)
            path = name.removesuffix(".weight")
            orders[key] = LazyTensor(f"{path}.input_order", array.shape, "i32", "test", partial(np.asarray, array))
        order = orders[key]
        whole = np.empty(tensor.shape, np.float32)
        whole[:, order.load()] = tensor.load()
        result |= {name: replace(tensor, read=partial(np.asarray, whole), order=order), order.name: order}
    return result


def as_floats(tensors: Tensors) -> Tensors:
    return {name: replace(tensor, parts=(), order=None) for name, tensor in tensors.items()}


def traced(tensors: Tensors) -> mlir.Module:
    return trace(CONFIG, partial(require, tensors), CACHE, LIMITS)


def count(module: mlir.Module, *specs: Any) -> int:
    return sum(is_op(op, *specs) for f in functions(module).values() if f.name != "prepare" for op in f.ops)


def decisions(module: mlir.Module) -> list[str]:
    return [line for line in recorded(functions(module)["step"]) if "take_columns: " in line]


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("op", [quantize, quantize_affine], ids=lambda op: op.name)
@pytest.mark.parametrize("target", [EAGER, CPU], ids=lambda target: target.name)
def test_sorted_columns_keep_their_numbers_and_the_model_its_meaning(op: Any, target: Target) -> None:
    tensors = sorted_by_group(stored(random_tensors(CONFIG), op.evaluate, INT4), INPUTS)
    floats = as_floats(tensors)
    expected = logits(traced(floats), floats)
    np.testing.assert_array_equal(logits(traced(tensors), tensors), expected)
    module = traced(tensors)
    assert list(run(module, pipeline(target, KEPT)))
    heroes = [op for f in functions(module).values() for op in f.ops if is_op(op, quantized_linear, scaled_linear)]
    assert heroes
    bound = 0.005 if target is CPU else 1e-6  # which rounds activations to eight bits
    np.testing.assert_allclose(logits(module, tensors), expected, rtol=0, atol=bound * np.abs(expected).max())


@pytest.mark.usefixtures("wl")
def test_a_layer_gathers_for_its_two_norms_and_after_attention() -> None:
    tensors = sorted_by_group(stored(random_tensors(CONFIG), quantize.evaluate, INT4), INPUTS)
    module = traced(tensors)
    order_inputs(module, Rules(KEPT))
    assert count(module, take_columns) == 3 * LAYERS
    assert count(module, place_columns) == 7 * LAYERS  # left to dce
    found = decisions(module)
    assert sum("folded into the rows of the weights before it" in line for line in found) == LAYERS
    assert sum("before the norm: others read the result of wl." in line for line in found) == 2 * LAYERS
    assert sum("wl.reshape makes columns that belong together" in line for line in found) == LAYERS
    assert list(run(module, pipeline(EAGER, KEPT)))
    assert count(module, place_columns) == 0


@pytest.mark.usefixtures("wl")
def test_inputs_that_two_orders_read_are_gathered_twice_after_the_norm() -> None:
    apart = {"q_proj": "a", "k_proj": "a", "v_proj": "b"} | {"gate_proj": "mlp", "up_proj": "mlp"}
    tensors = sorted_by_group(stored(random_tensors(CONFIG), quantize.evaluate, INT4), apart)
    expected = logits(traced(tensors), tensors)
    module = traced(tensors)
    order_inputs(module, Rules(KEPT))
    found = decisions(module)
    assert sum("others read the result of wl.rms_norm too" in line for line in found) == LAYERS  # a line for both
    assert count(module, take_columns) == 4 * LAYERS
    assert list(run(module, pipeline(EAGER, KEPT)))
    np.testing.assert_allclose(logits(module, tensors), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("wl")
def test_weights_that_are_stored_anew_keep_their_columns_in_place() -> None:
    tensors = sorted_by_group(stored(random_tensors(CONFIG), quantize.evaluate, INT4), INPUTS)
    expected = logits(traced(tensors), tensors)
    module = traced(tensors)
    rules = {"*.o_proj": "f32", "*.layers.0.*": "f32"} | KEPT
    order_inputs(module, Rules(rules))
    assert count(module, take_columns) == 2 * (LAYERS - 1)
    assert list(run(module, pipeline(EAGER, rules)))
    np.testing.assert_allclose(logits(module, tensors), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("wl")
def test_rows_of_a_product_are_no_columns_of_it() -> None:
    """With as many rows as columns only the axis of a slice says which it cuts."""
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {})
    x = builder.input("x", type_tensor((16, 8)))
    with builder.point:
        weight, scale = (param(name=n, shape=shape, dtype="f32") for n, shape in (("w", (8, 8)), ("s", (8, 1))))
        numbers = param(name="q", shape=(8, 8), dtype="i8")
        rows = slice_axis(linear(x, weight, n=8, layout="row"), axis=0, start=0, stop=8)
        placed = place_columns(dequantize(numbers, scale), constant(value=np.arange(8, dtype=np.int32)[::-1].copy()))
        builder.finish({"y": linear(rows, placed, n=8, layout="row")})
    order_inputs(module, Rules("checkpoint"))
    verify(module)
    assert count(module, take_columns) == 1
    assert "wl.slice makes columns that belong together" in decisions(module)[0]
