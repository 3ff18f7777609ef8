"""The Hugging Face config that a Llama GGUF's metadata describes."""

from __future__ import annotations

from typing import Any

import numpy as np

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_file import GGUFFile
from warploom.frontend.gguf_metadata import Metadata
from warploom.frontend.gguf_reader import ROPE_FACTORS, read_values

SUPPORTED_ARCHITECTURES = ("llama",)
ROPE_SCALINGS = ("none", "linear", "yarn")
DEFAULT_ROPE_THETA = 10000.0  # llama.cpp's value for a file that does not say


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """The `config.json` that the model had before it became a GGUF, as far as the file tells.

    Per-frequency RoPE factors (Llama 3's scaling, stored by llama.cpp as the tensor `rope_freqs.weight`) are carried
    as `rope_scaling` of type `longrope` with equal short and long factors and attention factor 1: in Hugging Face's
    own definition of that type the inverse frequencies are divided by the factors, which is what llama.cpp does with
    the tensor. The parameters of `llama3` cannot be had back from it, and need not be.

    Raises:
        CheckpointError: a needed key is missing or of the wrong type.
        UnsupportedModelError: another architecture, experts, partial rotary dims, another RoPE scaling.
    """
    _check_supported(file)
    llama, tokenizer = Metadata(file, "llama."), Metadata(file, "tokenizer.ggml.")
    num_heads, hidden_size = llama.size("attention.head_count"), llama.size("embedding_length")
    head_dim = llama.size("attention.key_length", default=hidden_size // num_heads)
    _check_head_dims(llama, head_dim)
    sliding_window = llama.integer("attention.sliding_window", default=0)
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if sliding_window else "LlamaForCausalLM"],
        "model_type": "mistral" if sliding_window else "llama",
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": llama.size("feed_forward_length"),
        "num_hidden_layers": llama.size("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": llama.size("attention.head_count_kv", default=num_heads),
        "head_dim": head_dim,
        "vocab_size": _vocab_size(file),
        "max_position_embeddings": llama.size("context_length"),
        "rms_norm_eps": llama.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": llama.real("rope.freq_base", default=DEFAULT_ROPE_THETA),
        "rope_scaling": _rope_scaling(file, llama),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    for key in ("bos_token_id", "eos_token_id"):
        if key in tokenizer:
            config[key] = tokenizer.integer(key)
    if sliding_window:
        config["sliding_window"] = sliding_window
    return config


def _check_supported(file: GGUFFile) -> None:
    architecture = Metadata(file, "general.").text("architecture", default="")
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise UnsupportedModelError(
            f"the architecture of {file.path} is not supported",
            expected=f"one of {', '.join(SUPPORTED_ARCHITECTURES)} (Llama, Mistral, SmolLM2)",
            found=architecture or "no general.architecture",
            fix="use the model's safetensors checkpoint if its architecture is supported there",
        )
    for key in ("llama.expert_count", "split.count"):
        if file.metadata.get(key, 0) not in (0, 1):
            raise UnsupportedModelError(
                f"{file.path} is a {'mixture of experts' if 'expert' in key else 'part of a split model'}",
                expected=f"{key} of 0 or 1",
                found=str(file.metadata[key]),
                fix="use a dense model in one file (llama.cpp's gguf-split --merge joins a split one)",
            )


def _check_head_dims(llama: Metadata, head_dim: int) -> None:
    for key in ("attention.value_length", "rope.dimension_count"):
        found = llama.integer(key, default=head_dim)
        if found != head_dim:
            raise UnsupportedModelError(
                f"{llama.file.path} has heads of unequal sizes",
                expected=f"{llama.prefix}{key} = {head_dim}, the size of a key",
                found=str(found),
            )


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(
            f"GGUF file {file.path} lacks a tensor",
            expected="token_embd.weight",
            found=f"{len(file.tensors)} other tensors",
        )
    return embedding.shape[0]


def _rope_scaling(file: GGUFFile, llama: Metadata) -> dict[str, Any] | None:
    rope_type = llama.text("rope.scaling.type", default="none")
    factors = file.tensors.get(ROPE_FACTORS)
    if rope_type not in ROPE_SCALINGS or (rope_type != "none" and factors is not None):
        raise UnsupportedModelError(
            f"the RoPE scaling of {file.path} is not supported",
            expected=f"one of {', '.join(ROPE_SCALINGS)}, or per-frequency factors in {ROPE_FACTORS}",
            found=rope_type + (f" and {ROPE_FACTORS}" if factors is not None else ""),
        )
    context = llama.size("rope.scaling.original_context_length", default=llama.size("context_length"))
    if factors is not None:
        values = [float(factor) for factor in read_values(factors).astype(np.float64)]
        return {
            "rope_type": "longrope",
            "factor": 1.0,
            "attention_factor": 1.0,
            "short_factor": values,
            "long_factor": values,
            "original_max_position_embeddings": context,
        }
    if rope_type == "linear":
        return {"rope_type": "linear", "factor": llama.real("rope.scaling.factor")}
    if rope_type == "yarn":
        factor = llama.real("rope.scaling.factor")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    return None
