"""What families do to weights (reordering rows, adding 1, transposing, separating) is done in `@prepare`."""

from __future__ import annotations

import pytest

from tests.unit.frontend.published_configs import PUBLISHED
from warploom.codegen.cpu.target import CPU
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.function import functions
from warploom.ir.op import Op, op_of
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.linear import linear
from warploom.ir.ops.shape import concat, slice_axis, transpose
from warploom.ir.rewrite import is_weight
from warploom.ir.types import DType, type_of
from warploom.passes.pipeline import pipeline, run

# By model: how it has fewer layers, and the op that must have moved.
MODELS: dict[str, tuple[str, Op]] = {
    "gemma-2-9b": ("num_hidden_layers", add),
    "GLM-4-9B-0414": ("num_hidden_layers", transpose),
    "command-r7b": ("num_hidden_layers", transpose),
    "falcon-40b": ("num_hidden_layers", slice_axis),
    "Nemotron-Mini-4B": ("num_hidden_layers", add),
    "gpt2": ("n_layer", transpose),
    "Qwen2.5-7B": ("num_hidden_layers", concat),
    "Mixtral-8x7B-v0.1": ("num_hidden_layers", concat),
    "DeepSeek-V2-Lite": ("num_hidden_layers", transpose),
}


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("name", MODELS)
def test_step_does_no_work_on_weights(name: str) -> None:
    layers, moved = MODELS[name]
    cache = CacheSpec(page_size=16, dtype=DType.BF16, k_layout="dim_major")
    module = trace(PUBLISHED[name] | {layers: 1}, dummy_tensor, cache, Limits(64, 4, 512))
    for _ in run(module, pipeline(CPU, "bf16")):
        pass
    found = functions(module)
    for operation in found["step"].ops:
        on_weights = [is_weight(operand) for operand in operation.operands]
        constant = bool(on_weights) and all(on_weights) and all(type_of(r).is_static for r in operation.results)
        assert not constant, f"{operation.name} makes a weight"  # a group may read weights for what is new in a step
        assert op_of(operation) is None or not any(on_weights), f"{operation.name} works on a weight"
    assert any(op_of(operation) is moved for operation in found["prepare"].ops)
    weights = [v for f in found.values() if f.is_private for v in f.inputs.values() if type_of(v).is_static]
    assert any(op_of(o) is linear for f in found.values() for o in f.ops)
    assert all(type_of(v).dtype is DType.BF16 for v in weights if type_of(v).rank > 1)
