"""Tiny checkpoints of the families with experts: counts that are no powers of two, sizes that are no multiple of 16."""

from __future__ import annotations

from typing import Any

from tests.model.families.case import Case
from tests.model.families.dense_cases import SIZES, WIDE, WINDOW, case

SEVEN: dict[str, Any] = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37}
SHARED = {"shared_expert_intermediate_size": 40}

EXPERTS: tuple[Case, ...] = (
    case("mixtral", "Mixtral", SIZES | {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": WINDOW}),
    case("qwen3_moe", "Qwen3Moe", WIDE | SEVEN | {"norm_topk_prob": True}),
    case("qwen3_moe_dense_layers", "Qwen3Moe", WIDE | SEVEN | {"decoder_sparse_step": 2, "attention_bias": True}),
    case("qwen2_moe", "Qwen2Moe", SIZES | SEVEN | SHARED),
    case("olmoe", "Olmoe", SIZES | {"num_experts": 6, "num_experts_per_tok": 2}),
)
