"""A step of a small model with latent attention as a GPU would run it, launch by launch, against its meaning."""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.codegen.latent_caches import latent_cache
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

DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "num_attention_heads": 3,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "vocab_size": 50,
    "max_position_embeddings": 512,
}
LATENT = DEEPSEEK["kv_lora_rank"]
SEQUENCES = {  # tokens and contexts; of the chunks one is expanded
    "chunks": [(1, 40), (200, 330), (57, 60)],
    "short": [(1, 40), (7, 60)],
    "decodes": [(1, 40), (1, 300)],
}


def traced(target: CudaTarget, kv: DType = DType.BF16) -> mlir.Module:
    cache = CacheSpec(page_size=PAGE_SIZE, dtype=kv, k_layout=K_LAYOUT)
    module = trace(DEEPSEEK, dummy_tensor, cache, Limits(512, 4, 512), activation=DType.BF16)
    for _ in run(module, pipeline(cuda(target), None)):
        pass
    return module


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(
    ("sequences", "deterministic", "kv"),
    [
        *((sequences, deterministic, DType.BF16) for sequences in SEQUENCES for deterministic in (False, True)),
        ("chunks", False, DType.F8),
        ("decodes", False, DType.I8),
        ("decodes", True, DType.F8),
    ],
)
def test_a_step_is_its_meaning(sequences: str, deterministic: bool, kv: DType) -> None:
    target = CudaTarget("sm_80", deterministic)
    module = traced(target, kv)
    check_step(module, target, SEQUENCES[sequences], kv)


def check_step(module: mlir.Module, target: CudaTarget, sequences: list[tuple[int, int]], kv: DType) -> None:
    step = functions(module)["step"]
    rng = np.random.default_rng(5)
    params = {}
    for operation in (op for op in step.ops if is_op(op, param)):
        type_ = type_of(operation.results[0])
        shape = type_.resolve({})
        values = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.standard_normal(shape) * shape[1] ** -0.5
        params[str(operation.attributes["name"].value)] = values.astype(type_.dtype.numpy)
    counts = [count for count, _ in sequences]
    dims = {"T": sum(counts), "S": len(counts), "R": len(counts), "P": 6, "C": 6 * len(counts)}
    table = rng.permutation(dims["C"]).astype(np.int32).reshape(len(counts), 6)
    places = [np.arange(context - count, context) for count, context in sequences]
    slots = [pages[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for pages, at in zip(table, places, strict=True)]
    starts = np.cumsum([0, *counts])
    inputs = {
        "token_ids": rng.integers(0, 50, dims["T"]),
        "positions": np.concatenate(places),
        "slots": np.concatenate(slots),
        "page_table": table,
        "query_start": starts,
        "context_lens": np.array([context for _, context in sequences]),
        "logit_rows": starts[1:] - 1,
    }
    arrays = {name: array.astype(np.int32) for name, array in inputs.items()}
    rows = rng.standard_normal((dims["C"], PAGE_SIZE, LATENT + DEEPSEEK["qk_rope_head_dim"])).astype(np.float32)
    cache = latent_cache(rows, LATENT, kv)[None]
    expected = evaluate(module, "step", {**arrays, "kv": cache.copy()}, params)["logits"]
    found = run_entry(plan_program(module, target), "step", arrays | params | {"kv": cache}, dims)["logits"]
    error = np.sqrt(np.square(found - expected).mean()) / np.sqrt(np.square(expected).mean())
    assert error < 0.02


@pytest.mark.usefixtures("wl")
def test_only_long_chunks_expand_keys_and_only_where_other_sequences_may_matter() -> None:
    for deterministic in (False, True):
        target = CudaTarget("sm_80", deterministic)
        launches = plan_program(traced(target), target).entries["step"].launches
        expanding = [launch.when for launch in launches if launch.kernel.startswith("expand")]
        assert bool(expanding) != deterministic
        assert all(when is not None and when.min > 1 << 20 for when in expanding)
