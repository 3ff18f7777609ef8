"""What the whole pipeline makes of a Llama: few launches, no work on weights, no copy of the cache, same meaning."""

from __future__ import annotations

from collections import Counter

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.passes.tiny_llama import CONFIG as TINY
from tests.unit.passes.tiny_llama import LAYERS, LIMITS, random_tensors, traced
from warploom.codegen.cpu.target import CPU
from warploom.errors import CompileError
from warploom.ir.context import print_module
from warploom.ir.function import Function, functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.op import op_of
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.packing import pack
from warploom.ir.ops.parameters import param
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.shape import concat
from warploom.ir.rewrite import entries, is_op, is_weight
from warploom.ir.types import type_of
from warploom.passes.assign_layouts import assign_layouts
from warploom.passes.donate import IN_PLACE
from warploom.passes.merge_linears import merge_linears
from warploom.passes.pipeline import pipeline, run

QUANTIZATIONS = ["f32", "bf16", "int8", "int4", "*.self_attn=int8,lm_head=bf16,*=int4:zeros"]


def compiled(quantization: str = "bf16", config: dict[str, object] | None = None) -> mlir.Module:
    """The tiny Llama after all passes."""
    module = traced(config)
    assert list(run(module, pipeline(CPU, quantization)))
    return module


def kinds(step: Function, module: mlir.Module) -> Counter[str]:
    """How many launches of each kind a step makes."""
    groups = functions(module)
    calls = [op for op in step.ops if op.name == "func.call"]
    return Counter(groups[c.attributes["callee"].value].operation.attributes["wl.kind"].value for c in calls)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_six_launches_a_layer(quantization: str) -> None:
    module = compiled(quantization)
    count = kinds(functions(module)["step"], module)
    assert count["linear"] == 4 * LAYERS + 1  # qkv, o, gate_up, down; and the head
    assert count["rope_kv_write"] == count["attention"] == LAYERS
    assert count["embed"] == 1
    assert count["rms_norm"] == 0  # all are prologues


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_step_does_no_work_on_weights(quantization: str) -> None:
    module = compiled(quantization)
    for function in entries(module):
        for op in function.ops:
            at_run_time = [o for o in op.operands if is_weight(o)]
            assert op_of(op) in (None, param) or not at_run_time, f"{op.name} works on a weight in @{function.name}"
    for group in functions(module).values():
        if group.is_private:
            static = [op for op in group.ops if all(type_of(o).is_static for o in op.operands)]
            assert not any(is_op(op, pack, quantize) for op in static)  # activations are quantized, weights are not
    assert any(is_op(op, pack) for op in functions(module)["prepare"].ops)
    assert any(is_op(op, concat) for op in functions(module)["prepare"].ops)


@pytest.mark.usefixtures("wl")
def test_every_cache_write_is_in_place() -> None:
    module = compiled()
    writes = [op for f in functions(module).values() for op in f.ops if is_op(op, kv_write)]
    assert len(writes) == LAYERS
    assert all(IN_PLACE in op.attributes for op in writes)


@pytest.mark.usefixtures("wl")
def test_tied_table_is_stored_once() -> None:
    module = compiled("bf16", {"tie_word_embeddings": True})
    tables = {
        op.attributes["name"].value
        for op in functions(module)["step"].ops
        if is_op(op, param) and "embed_tokens" in op.attributes["name"].value
    }
    assert tables == {"model.embed_tokens.weight:bf16:panel"}


MISTRAL = {"architectures": ["MistralForCausalLM"], "sliding_window": 20}


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False, "intermediate_size": 100, **MISTRAL}])
def test_step_means_the_same_after_all_passes(config: dict[str, object]) -> None:
    tensors = random_tensors({**TINY, **config})

    def load(name: str) -> np.ndarray:
        return tensors[name].load()

    before, after = traced(config), compiled("f32", config)
    inputs = step_inputs()
    expected = evaluate(before, "step", inputs, dict(evaluate_exports(before, load)))
    actual = evaluate(after, "step", inputs, dict(evaluate_exports(after, load)))
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("wl")
def test_fusion_decisions_are_recorded() -> None:
    log = [str(line.value) for line in functions(compiled())["step"].operation.attributes["wl.fusion"]]
    assert any("model.layers.1.mlp: linear: fused rms_norm + linear" in line for line in log)
    assert all(line.startswith(("model", "lm_head")) for line in log)


def test_unknown_quantization_is_refused() -> None:
    with pytest.raises(CompileError, match="int3"):
        pipeline(CPU, "int3")


def step_inputs() -> dict[str, np.ndarray]:
    """Two sequences: a prompt of five tokens, and a decode at position 17, with its past in the cache."""
    rng = np.random.default_rng(1)
    pages, block = 6, 16 * TINY["head_dim"]
    shape = (TINY["num_hidden_layers"], pages, 2, TINY["num_key_value_heads"], block)
    ints = {
        "token_ids": [5, 9, 2, 77, 31, 8],
        "positions": [0, 1, 2, 3, 4, 17],
        "slots": [48, 49, 50, 51, 52, 2 * 16 + 1],
        "page_table": [[3, 0], [5, 2]],
        "query_start": [0, 5, 6],
        "context_lens": [5, 18],
        "logit_rows": [4, 5],
    }
    assert LIMITS.max_context >= 18
    arrays = {name: np.array(value, np.int32) for name, value in ints.items()}
    return arrays | {"kv": rng.standard_normal(shape).astype(np.float32)}


@pytest.mark.usefixtures("wl")
def test_packed_weights_are_not_merged() -> None:
    module = traced()
    assign_layouts(module, CPU)
    before = print_module(module)
    assert 'layout = "row"' not in before
    merge_linears(module)
    assert print_module(module) == before
