"""Putting FP8 caches on scales: ones change no bit, others are those of their layer and head."""

from __future__ import annotations

from functools import partial

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.passes.test_pipeline_on_llama import step_inputs
from tests.unit.passes.tiny_llama import CONFIG, random_tensors
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import require
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import print_module
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.ops.kv_write import F8_MAX
from warploom.ir.ops.paged_cache import view_pages
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES, scaled_attention, scaled_kv_write, scales_name
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType
from warploom.ir.verify import verify
from warploom.passes.scale_caches import scale_caches

LAYERS, HEADS, PAGE = CONFIG["num_hidden_layers"], CONFIG["num_key_value_heads"], 16
TENSORS = random_tensors(CONFIG)
Arrays = dict[str, np.ndarray]


def traced(kv: DType) -> mlir.Module:
    return trace(CONFIG, partial(require, TENSORS), CacheSpec(PAGE, kv, "token_major"), Limits(32, 8, 256))


def run_step(module: mlir.Module, scales: np.ndarray) -> Arrays:
    """A step over an empty cache; scales [layers, 2, heads]."""
    stored = {scales_name(layer): each for layer, each in enumerate(scales.astype(np.float32))}
    params = dict(evaluate_exports(module, lambda name: stored[name] if name in stored else TENSORS[name].load()))
    inputs = step_inputs()
    shape = (*inputs["kv"].shape[:4], PAGE * CONFIG["head_dim"])
    return evaluate(module, "step", inputs | {"kv": np.zeros(shape, DType.F8.numpy)}, params)


@pytest.mark.usefixtures("wl")
def test_ones_change_no_bit() -> None:
    module = traced(DType.F8)
    before = run_step(module, np.ones((LAYERS, 2, HEADS)))
    scale_caches(module, [scales_name(layer) for layer in range(LAYERS)])
    verify(module)
    used = [op for op in functions(module)["step"].ops if is_op(op, *WRITES, *ATTENTIONS)]
    assert len(used) == 2 * LAYERS
    assert all(is_op(op, scaled_kv_write, scaled_attention) for op in used)
    after = run_step(module, np.ones((LAYERS, 2, HEADS)))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name].view("u1"), array.view("u1"))
    text = print_module(module)
    scale_caches(module, [scales_name(layer) for layer in range(LAYERS)])
    assert print_module(module) == text


@pytest.mark.usefixtures("wl")
def test_each_head_of_each_layer_has_its_own() -> None:
    scales = 2.0 ** np.random.default_rng(0).integers(-4, 3, (LAYERS, 2, HEADS))
    module = traced(DType.F8)
    scale_caches(module, [scales_name(layer) for layer in range(LAYERS)])
    plain, scaled = run_step(module, np.ones_like(scales)), run_step(module, scales)
    assert np.abs(scaled["logits"] - plain["logits"]).max() < 0.1 * plain["logits"].std()
    first, other = (view_pages(found["kv"], 0, CONFIG["head_dim"], "token_major") for found in (plain, scaled))
    for which in (0, 1):
        numbers = first[which].astype(np.float32) / scales[0, which][:, None, None]
        inside = (np.abs(first[which].astype(np.float32)) > 2**-4) & (np.abs(numbers) < F8_MAX) & (numbers != 0)
        assert inside.any()
        np.testing.assert_array_equal(other[which].astype(np.float32)[inside], numbers[inside])


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("kv", [DType.F32, DType.BF16, DType.I8])
def test_other_caches_need_none(kv: DType) -> None:
    module = traced(kv)
    text = print_module(module)
    scale_caches(module, [scales_name(layer) for layer in range(LAYERS)])
    assert print_module(module) == text
