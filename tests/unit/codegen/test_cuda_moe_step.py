"""A step of a small mixture of experts as a GPU would run it, launch by launch, against the meaning of its program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.plan_interpreter import run_entry
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.driver import plan_program
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE, cuda
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.parameters import param
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of
from warploom.passes.pipeline import pipeline, run

SM_80 = CudaTarget("sm_80")
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 48,
    "intermediate_size": 40,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 99,
    "max_position_embeddings": 128,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
}


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("tokens", [1, 11])
def test_a_step_is_its_meaning(tokens: int) -> None:
    cache = CacheSpec(page_size=PAGE_SIZE, dtype=DType.BF16, k_layout=K_LAYOUT)
    module = trace(QWEN3, dummy_tensor, cache, Limits(64, 4, 128), activation=DType.BF16)
    for _ in run(module, pipeline(cuda(SM_80), None)):
        pass
    step = functions(module)["step"]
    rng = np.random.default_rng(tokens)
    params = {}
    for operation in (op for op in step.ops if is_op(op, param)):
        type_ = type_of(operation.results[0])
        shape = type_.resolve({})
        values = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.standard_normal(shape) * shape[1] ** -0.5
        params[str(operation.attributes["name"].value)] = values.astype(type_.dtype.numpy)
    dims = {"T": tokens, "S": 1, "R": tokens, "P": 1, "C": 1}
    positions = np.arange(tokens, dtype=np.int32)
    inputs = {
        "token_ids": rng.integers(0, 99, tokens).astype(np.int32),
        "positions": positions,
        "slots": positions.copy(),
        "page_table": np.zeros((1, 1), np.int32),
        "query_start": np.array([0, tokens], np.int32),
        "context_lens": np.array([tokens], np.int32),
        "logit_rows": positions.copy(),
        "kv": np.zeros(type_of(step.inputs["kv"]).resolve(dims), DType.BF16.numpy),
    }
    expected = evaluate(module, "step", {name: array.copy() for name, array in inputs.items()}, params)["logits"]
    found = run_entry(plan_program(module, SM_80), "step", inputs | params, dims)["logits"]
    error = np.sqrt(np.square(found - expected).mean(1)) / np.sqrt(np.square(expected).mean())
    assert np.median(error) < 0.02  # a routing that is a tie in bf16 may turn, and with it a token
    assert error.max() < 0.5
