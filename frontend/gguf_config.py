"""The Hugging Face config that a GGUF's metadata describes."""

from __future__ import annotations

from typing import Any

import numpy as np

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_families import Counts, GGUFFamily, gguf_family
from warploom.frontend.gguf_fields import Fields
from warploom.frontend.gguf_file import GGUFFile
from warploom.frontend.gguf_metadata import Metadata
from warploom.frontend.gguf_values import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, read_values

ROPE_SCALINGS = ("none", "linear", "yarn")
DEFAULT_ROPE_THETA = 10000.0  # keys.cpp's value for a file that does not say


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """The `config.json` that the model had before it became a GGUF, as far as the file tells.

    Per-frequency RoPE factors (Llama 3's scaling, stored by keys.cpp as the tensor `rope_freqs.weight`) are carried
    as `rope_scaling` of type `longrope` with equal short and long factors and attention factor 1: in Hugging Face's
    own definition of that type the inverse frequencies are divided by the factors, which is what keys.cpp does with
    the tensor. The parameters of `llama3` cannot be had back from it, and need not be.

    Raises:
        CheckpointError: a needed key is missing or of the wrong type.
        UnsupportedModelError: another architecture, experts, another RoPE scaling, heads of unequal sizes.
    """
    name, family = gguf_family(file)
    keys, tokenizer = Metadata(file, f"{name}."), Metadata(file, "tokenizer.ggml.")
    _check_whole(file, name, family.has_experts)
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_type,
        "vocab_size": _vocab_size(file, keys),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    for key in ("bos_token_id", "eos_token_id"):
        if key in tokenizer:
            config[key] = tokenizer.integer(key)
    return config | _usual_fields(keys, family) | family.fields(keys)


def _usual_fields(keys: Metadata, family: GGUFFamily) -> Fields:
    """Sizes and RoPE, as the family spells them."""
    counts, hidden_size = Counts.of(keys), keys.size("embedding_length")
    usual: Fields = {
        "hidden_size": hidden_size,
        "intermediate_size": keys.size("feed_forward_length"),
        "num_hidden_layers": counts.layers,
        "num_attention_heads": counts.heads,
        "max_position_embeddings": keys.size("context_length"),
        "rope_theta": keys.real("rope.freq_base", default=DEFAULT_ROPE_THETA),
    }
    if not family.latent:
        head_dim = keys.size("attention.key_length", default=hidden_size // counts.heads)
        rotated = _check_head_dims(keys, head_dim, family.partial)
        usual |= {"num_key_value_heads": counts.kv_heads, "head_dim": head_dim}
        usual |= {"rope_scaling": _rope_scaling(keys.file, keys)}
        if family.partial:
            usual["partial_rotary_factor"] = rotated / head_dim
    return {name: usual[field] for field, name in family.spelling} if family.spelling else usual


def _check_whole(file: GGUFFile, name: str, has_experts: bool) -> None:
    for key in ("split.count", *([] if has_experts else [f"{name}.expert_count"])):
        if file.metadata.get(key, 0) not in (0, 1):
            raise UnsupportedModelError(
                f"{file.path} is a {'mixture of experts' if 'expert' in key else 'part of a split model'}",
                expected=f"{key} of 0 or 1",
                found=str(file.metadata[key]),
                fix="use the original checkpoint, or one file (llama.cpp's gguf-split --merge joins a split model)",
            )


def _check_head_dims(keys: Metadata, head_dim: int, partial: bool) -> int:
    """The rotated part of a head."""
    for key in ("attention.value_length", "rope.dimension_count"):
        found = keys.integer(key, default=head_dim)
        if found != head_dim and not (partial and key.startswith("rope") and 0 < found < head_dim):
            raise UnsupportedModelError(
                f"{keys.file.path} has heads of unequal sizes",
                expected=f"{keys.prefix}{key} = {head_dim}, the size of a key",
                found=str(found),
            )
    return keys.integer("rope.dimension_count", default=head_dim)


def _vocab_size(file: GGUFFile, keys: Metadata) -> int:
    """Rows of the embedding, whose columns are as many as the file says."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(
            f"GGUF file {file.path} lacks a tensor",
            expected="token_embd.weight",
            found=f"{len(file.tensors)} other tensors",
        )
    columns = keys.size("embedding_length")
    if embedding.shape[1:] != (columns,):
        raise keys.unusable("embedding_length", f"the columns of an embedding {list(embedding.shape)}", columns)
    return embedding.shape[0]


def _rope_scaling(file: GGUFFile, keys: Metadata) -> dict[str, Any] | None:
    if LONG_FACTORS in file.tensors:
        return _longrope(file, keys)
    rope_type = keys.text("rope.scaling.type", default="none")
    factors = file.tensors.get(ROPE_FACTORS)
    if rope_type not in ROPE_SCALINGS or (rope_type != "none" and factors is not None):
        raise UnsupportedModelError(
            f"the RoPE scaling of {file.path} is not supported",
            expected=f"one of {', '.join(ROPE_SCALINGS)}, or per-frequency factors in {ROPE_FACTORS}",
            found=rope_type + (f" and {ROPE_FACTORS}" if factors is not None else ""),
        )
    context = keys.size("rope.scaling.original_context_length", default=keys.size("context_length"))
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
        return {"rope_type": "linear", "factor": keys.real("rope.scaling.factor")}
    return _yarn(keys, context) if rope_type == "yarn" else None


def _yarn(keys: Metadata, context: int) -> dict[str, Any]:
    """The converter writes what the config stated beyond the factor."""
    stated = {
        "attention_factor": ("attn_factor", "yarn_attn_factor"),
        "beta_fast": ("yarn_beta_fast",),
        "beta_slow": ("yarn_beta_slow",),
    }
    found = {field: f"rope.scaling.{key}" for field, names in stated.items() for key in names}
    scaling = {"rope_type": "yarn", "factor": keys.real("rope.scaling.factor")}
    scaling |= {field: keys.real(key) for field, key in found.items() if key in keys}
    return scaling | {"original_max_position_embeddings": context}


def _longrope(file: GGUFFile, keys: Metadata) -> dict[str, Any]:
    """Phi-3's two sets of factors, which are tensors."""
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "original_max_position_embeddings": keys.size("rope.scaling.original_context_length"),
    }
    for field, name in (("short_factor", SHORT_FACTORS), ("long_factor", LONG_FACTORS)):
        if name not in file.tensors:
            raise CheckpointError(f"GGUF file {file.path} lacks a tensor", expected=name, found=LONG_FACTORS)
        scaling[field] = [float(factor) for factor in read_values(file.tensors[name]).astype(np.float64)]
    if "rope.scaling.attn_factor" in keys:
        scaling["attention_factor"] = keys.real("rope.scaling.attn_factor")
    return scaling
