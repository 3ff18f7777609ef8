"""Tiny checkpoints of the dense families, with awkward sizes: odd numbers of heads, sizes that are no multiple of 64.

Windows and original contexts are far below the 128 tokens that a test looks at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.model.families.case import Case

SIZES: dict[str, Any] = {
    "hidden_size": 80,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "max_position_embeddings": 160,
}
WIDE = SIZES | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}  # 6 * 16 != 48
WINDOW = 21
ALTERNATING = ["sliding_attention", "full_attention"]


def rope(**parameters: Any) -> dict[str, Any]:
    """transformers' rope_parameters."""
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", **parameters}}


def case(id: str, name: str, fields: dict[str, Any], model: str | None = None, config: str | None = None) -> Case:
    """A case whose classes have the usual names."""
    return Case(id, model or f"{name}ForCausalLM", config or f"{name}Config", fields)


LONGROPE = rope(
    rope_type="longrope", short_factor=[1 + i / 8 for i in range(8)], long_factor=[1.5 + i for i in range(8)]
)
LLAMA3 = rope(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
GEMMA = {"sliding_window": WINDOW, "query_pre_attn_scalar": 24}
EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
SEEING = {
    "text_config": WIDE | GEMMA | {"layer_types": ALTERNATING},
    "vision_config": EYES | {"patch_size": 14},
    "mm_tokens_per_image": 4,
}
MISTRAL3 = {
    "text_config": WIDE | {"model_type": "mistral", "head_dim": 32, "sliding_window": None},
    "vision_config": EYES | {"model_type": "pixtral", "patch_size": 14},
}
MISTRAL3_MODEL = "Mistral3ForConditionalGeneration"
GPT2 = {"n_positions": 160, "n_embd": 96, "n_layer": 2, "n_head": 3}
PARALLEL = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
FALCON = {k: v for k, v in PARALLEL.items() if k != "intermediate_size"}
FALCON_40B = {"num_attention_heads": 10, "hidden_size": 160, "num_kv_heads": 2, "new_decoder_architecture": True}
# transformers rounds what ALiBi adds to bf16: exact for slopes that are powers of two.
FALCON_RW = {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True} | {
    "num_attention_heads": 8,
    "hidden_size": 128,
}
OLMO3 = {
    "rope_parameters": {
        "full_attention": YARN["rope_parameters"],
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    }
}
BLOOM = {"hidden_size": 80, "n_layer": 2, "n_head": 5}
MPT = {"d_model": 96, "n_layers": 2, "n_heads": 6, "max_seq_len": 160}
NORMED = {"use_parallel_residual": True, "qk_layernorm": True}

DENSE: tuple[Case, ...] = (
    case("llama", "Llama", WIDE),
    case("llama_biases_tied", "Llama", SIZES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    case("llama_linear", "Llama", WIDE | rope(rope_type="linear", factor=4.0)),
    case("llama_dynamic", "Llama", WIDE | rope(rope_type="dynamic", factor=2.0)),
    case("llama_llama3", "Llama", WIDE | LLAMA3),
    case("llama_yarn", "Llama", WIDE | {"num_key_value_heads": 6} | YARN),
    case("smollm3", "SmolLM3", SIZES | {"no_rope_layers": [1, 0]}),
    case("mistral", "Mistral", WIDE | {"head_dim": 32, "sliding_window": WINDOW}),
    case("mistral3", "Mistral3", MISTRAL3 | {"tie_word_embeddings": False}, model=MISTRAL3_MODEL),
    case("mistral3_tied", "Mistral3", MISTRAL3, model=MISTRAL3_MODEL),
    case("ministral", "Ministral", WIDE | {"sliding_window": WINDOW, "layer_types": ALTERNATING}),
    case("qwen2", "Qwen2", SIZES | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    case("qwen3", "Qwen3", WIDE),
    case("gemma2", "Gemma2", WIDE | GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0}),
    case("gemma3", "Gemma3", WIDE | GEMMA | {"layer_types": ALTERNATING}, config="Gemma3TextConfig"),
    case("gemma3_images", "Gemma3", SEEING, model="Gemma3ForConditionalGeneration"),
    case("phi3", "Phi3", SIZES | rope(partial_rotary_factor=0.75) | {"sliding_window": WINDOW}),
    case("phi3_longrope", "Phi3", SIZES | {"original_max_position_embeddings": 64} | LONGROPE),
    case(
        "granite",
        "Granite",
        SIZES
        | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 1.7},
    ),
    case("olmo2", "Olmo2", SIZES),
    case("olmo3", "Olmo3", WIDE | {"sliding_window": WINDOW, "layer_types": ALTERNATING} | OLMO3),
    case("ernie4_5", "Ernie4_5", WIDE),
    case("exaone4", "Exaone4", SIZES | {"sliding_window": WINDOW, "sliding_window_pattern": 2}),
    case("seed_oss", "SeedOss", WIDE | {"attention_bias": True}),
    case("starcoder2", "Starcoder2", SIZES | {"sliding_window": WINDOW}),
    case("gpt2", "GPT2", GPT2, model="GPT2LMHeadModel"),
    case("neox", "GPTNeoX", PARALLEL | rope(partial_rotary_factor=0.25)),
    case("neox_sequential", "GPTNeoX", PARALLEL | {"use_parallel_residual": False} | rope(partial_rotary_factor=0.5)),
    case("falcon_7b", "Falcon", FALCON),
    case("falcon_40b", "Falcon", FALCON | FALCON_40B),
    replace(case("falcon_rw", "Falcon", FALCON | FALCON_RW), attention="sdpa"),  # eager adds ALiBi twice
    case("bloom", "Bloom", BLOOM),
    case("mpt", "Mpt", MPT),
    case("mpt_clipped", "Mpt", MPT | {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.4}}),
    case("stablelm", "StableLm", SIZES | {"use_qkv_bias": True} | rope(partial_rotary_factor=0.25)),
    case("stablelm_parallel", "StableLm", SIZES | NORMED | rope(partial_rotary_factor=0.5)),
    case("cohere", "Cohere", SIZES | {"logit_scale": 0.5, "use_qk_norm": True}),
    case("cohere2", "Cohere2", WIDE | {"logit_scale": 0.5, "sliding_window": WINDOW, "layer_types": ALTERNATING}),
    case("glm", "Glm", WIDE | rope(partial_rotary_factor=0.5)),
    case("glm4", "Glm4", WIDE | rope(partial_rotary_factor=0.5)),
    case("nemotron", "Nemotron", WIDE | rope(partial_rotary_factor=0.5)),
)  # fmt: skip
