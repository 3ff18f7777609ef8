"""The models that the cost model is fitted to and judged on: shapes from their public config.json, few layers.

Layers repeat, so a few stand for all; there are as many as it takes for their weights to exceed a GPU's cache, except
where one kernel runs all of them. Hardly a kernel of the second set has the shape of one of the first, but for what has
no shape (feeding tokens, the tables of rotations). The form of the model was chosen by the first set alone, too.
"""

from __future__ import annotations

from typing import Any

ALL = ("bf16", "int8", "int4", "fp8")


def _config(
    family: str, sizes: tuple[int, int, int, int, int], layers: int, vocab: int, **other: Any
) -> dict[str, Any]:
    """`sizes`: hidden, intermediate, heads, KV heads, head_dim."""
    hidden, intermediate, heads, kv_heads, head_dim = sizes
    return {
        "model_type": family.lower(),
        "architectures": [f"{family}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
        **other,
    }


LLAMA_ROPE = {
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
TIED = {"tie_word_embeddings": True}
GEMMA_2 = {
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "hidden_activation": "gelu_pytorch_tanh",
}

# By name: the config, and the schemes to compile it with.
FIT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama-3.1-8b": (_config("Llama", (4096, 14336, 32, 8, 128), 2, 128256, **LLAMA_ROPE), ALL),
    "qwen2.5-1.5b": (_config("Qwen2", (1536, 8960, 12, 2, 128), 4, 151936, **TIED), ("bf16", "int4")),
    "smollm2-135m": (_config("Llama", (576, 1536, 9, 3, 64), 30, 49152, **TIED), ("bf16", "int8")),
    "llama-3.2-3b": (_config("Llama", (3072, 8192, 24, 8, 128), 3, 128256, **LLAMA_ROPE, **TIED), ALL),
    "qwen3-4b": (_config("Qwen3", (2560, 9728, 32, 8, 128), 3, 151936, **TIED), ("bf16", "fp8")),
    "smollm2-1.7b": (_config("Llama", (2048, 8192, 32, 32, 64), 4, 49152, **TIED), ("bf16", "int4")),
    "gemma-2-2b": (_config("Gemma2", (2304, 9216, 8, 4, 256), 4, 256000, **TIED, **GEMMA_2), ("bf16", "int8")),
    "smollm2-360m": (_config("Llama", (960, 2560, 15, 5, 64), 32, 49152, **TIED), ("bf16",)),
}
HELD_OUT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "qwen2.5-7b": (_config("Qwen2", (3584, 18944, 28, 4, 128), 2, 152064), ("bf16", "int8", "int4")),
    "qwen3-1.7b": (_config("Qwen3", (2048, 6144, 16, 8, 128), 4, 151936, **TIED), ("bf16", "fp8")),
    "tinyllama-1.1b": (_config("Llama", (2048, 5632, 32, 4, 64), 5, 32000), ("bf16", "int4")),
    "gemma-2-9b": (_config("Gemma2", (3584, 14336, 16, 8, 256), 2, 256000, **TIED, **GEMMA_2), ("bf16", "int8")),
    "qwen2.5-0.5b": (_config("Qwen2", (896, 4864, 14, 2, 64), 24, 151936, **TIED), ("bf16",)),
    "phi-3-mini": (_config("Phi3", (3072, 8192, 32, 32, 96), 2, 32064), ("bf16", "fp8")),
}
