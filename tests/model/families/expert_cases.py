"""Tiny checkpoints of the families with experts: counts that are no powers of two, sizes that are no multiple of 16."""

from __future__ import annotations

from typing import Any

from tests.model.families.case import Case
from tests.model.families.dense_cases import ALTERNATING, SIZES, WIDE, WINDOW, case, rope

SEVEN: dict[str, Any] = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37}
FIVE = {"num_local_experts": 5, "num_experts_per_tok": 2}
GPT_OSS = WIDE | FIVE | {"sliding_window": WINDOW, "layer_types": ALTERNATING, "swiglu_limit": 1.0}
GPT_OSS_YARN = rope(
    rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=64
)
ERNIE = {"moe_num_experts": 7, "moe_k": 3, "moe_intermediate_size": 37, "moe_num_shared_experts": 1}
GLM = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "n_group": 2, "use_qk_norm": True}
SHARED = {"shared_expert_intermediate_size": 40}

EXPERTS: tuple[Case, ...] = (
    case("mixtral", "Mixtral", SIZES | FIVE | {"sliding_window": WINDOW}),
    case("qwen3_moe", "Qwen3Moe", WIDE | SEVEN | {"norm_topk_prob": True}),
    case("qwen3_moe_dense_layers", "Qwen3Moe", WIDE | SEVEN | {"decoder_sparse_step": 2, "attention_bias": True}),
    case("qwen2_moe", "Qwen2Moe", SIZES | SEVEN | SHARED),
    case("granite_moe", "GraniteMoe", SIZES | FIVE | {"residual_multiplier": 0.4, "attention_multiplier": 0.2}),
    case("ernie4_5_moe", "Ernie4_5_Moe", SIZES | ERNIE),
    case("glm4_moe", "Glm4Moe", WIDE | GLM | rope(partial_rotary_factor=0.5)),
    case("minimax_m2", "MiniMaxM2", WIDE | FIVE | rope(partial_rotary_factor=0.5)),
    case("gpt_oss", "GptOss", GPT_OSS | GPT_OSS_YARN),
    case("olmoe", "Olmoe", SIZES | {"num_experts": 6, "num_experts_per_tok": 2}),
)
