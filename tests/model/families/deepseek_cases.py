"""Tiny checkpoints of DeepSeek's families: latents and rotated keys are multiples of 16, nothing else is."""

from __future__ import annotations

from typing import Any

from tests.model.families.case import Case
from tests.model.families.dense_cases import SIZES, case, rope

LATENT: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": SIZES["num_attention_heads"],
    "kv_lora_rank": 48,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 37,
    "first_k_dense_replace": 1,
}
DENSE_ONLY = {"first_k_dense_replace": 2}
YARN = rope(rope_type="yarn", factor=4.0, mscale=0.7, mscale_all_dim=0.9, original_max_position_embeddings=64)
GROUPS = {"n_group": 4, "topk_group": 2}
LIMITED = {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.7, "q_lora_rank": 33} | GROUPS

GLM_LITE = {k: v for k, v in LATENT.items() if k != "first_k_dense_replace"}

DEEPSEEK: tuple[Case, ...] = (
    case("deepseek_v2_dense", "DeepseekV2", LATENT | DENSE_ONLY | {"q_lora_rank": None, "attention_bias": True}),
    case("deepseek_v2_lite", "DeepseekV2", LATENT | YARN | {"q_lora_rank": None, "n_shared_experts": 2}),
    case("deepseek_v2", "DeepseekV2", LATENT | LIMITED),
    case("deepseek_v3", "DeepseekV3", LATENT | YARN | GROUPS | {"q_lora_rank": 33, "n_shared_experts": 1}),
    case("glm4_moe_lite", "Glm4MoeLite", GLM_LITE | GROUPS | {"q_lora_rank": 33, "n_shared_experts": 1}),
    case("deepseek_v3_halves", "DeepseekV3", LATENT | GROUPS | {"topk_group": 4, "rope_interleave": False}),
)
