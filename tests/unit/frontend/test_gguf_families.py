"""Every family that GGUF names: what llama.cpp's converter writes of a tiny model is read as that model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.dense_cases import DENSE, SIZES, WIDE, case
from tests.model.families.expert_cases import EXPERTS, FIVE
from tests.unit.frontend.tiny_checkpoints import GGUFContents, byte_level_tokens, interleave
from warploom.frontend.checkpoint import open_checkpoint
from warploom.frontend.gguf_families import GGUF_FAMILIES
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import require
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import print_module
from warploom.ir.types import DType

GEMMA3 = {"sliding_window": 21, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}
CACHE = CacheSpec(page_size=16, dtype=DType.F32, k_layout="dim_major")


def counts(config: dict[str, Any]) -> dict[str, Any]:
    """The converter's keys of experts."""
    count = config.get("num_experts") or config["num_local_experts"]
    keys = {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}
    size = config.get("moe_intermediate_size")
    return keys | ({"expert_feed_forward_length": size} if size else {})


# By the case that has the family's features: its architecture in GGUF, and the keys beyond the usual.
KEYS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "llama": ("llama", lambda c: {}),
    "llama_biases_tied": ("llama", lambda c: {}),
    "mistral": ("llama", lambda c: {"attention.sliding_window": c["sliding_window"]}),
    "qwen3": ("qwen3", lambda c: {}),
    "phi3": ("phi3", lambda c: {"attention.sliding_window": c["sliding_window"]}),
    "phi3_longrope": ("phi3", lambda c: {"rope.scaling.original_context_length": 64}),
    "granite": (
        "granite",
        lambda c: {
            "attention.scale": c["attention_multiplier"],
            "embedding_scale": c["embedding_multiplier"],
            "residual_scale": c["residual_multiplier"],
            "logit_scale": c["logits_scaling"],
        },
    ),
    "olmo2": ("olmo2", lambda c: {}),
    "seed_oss": ("seed_oss", lambda c: {}),
    "nemotron": ("nemotron", lambda c: {}),
    "stablelm": ("stablelm", lambda c: {}),
    "neox": ("gptneox", lambda c: {}),
    "neox_sequential": ("gptneox", lambda c: {"use_parallel_residual": False}),
    "cohere": ("command-r", lambda c: {"logit_scale": c["logit_scale"]}),
    "cohere2_published": (
        "cohere2",
        lambda c: {"logit_scale": c["logit_scale"], "attention.sliding_window": c["sliding_window"]},
    ),
    "glm4": ("glm4", lambda c: {}),
    "gemma2_published": (
        "gemma2",
        lambda c: {
            "attention.sliding_window": c["sliding_window"],
            "attn_logit_softcapping": c["attn_logit_softcapping"],
            "final_logit_softcapping": c["final_logit_softcapping"],
        },
    ),
    "gemma3_published": ("gemma3", lambda c: {"attention.sliding_window": c["sliding_window"]}),
    "qwen2_plain": ("qwen2", lambda c: {}),
    "smollm3_published": ("smollm3", lambda c: {}),
    "starcoder2_plain": ("starcoder2", lambda c: {}),
    "mixtral_plain": ("llama", counts),
    "qwen3_moe": ("qwen3moe", counts),
    "qwen2_moe": (
        "qwen2moe",
        lambda c: counts(c) | {"expert_shared_feed_forward_length": c["shared_expert_intermediate_size"]},
    ),
    "olmoe": ("olmoe", counts),
    "exaone4": (
        "exaone4",
        lambda c: {
            "attention.sliding_window": c["sliding_window"],
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in c["layer_types"]],
        },
    ),
}
# Variants that the format can say: Gemma's scale by the size of a head, its and SmolLM3's usual patterns of layers.
ALSO = (
    case("gemma2_published", "Gemma2", WIDE | {"sliding_window": 21, "query_pre_attn_scalar": 16}),
    case("gemma3_published", "Gemma3", WIDE | GEMMA3, config="Gemma3TextConfig"),
    case("cohere2_published", "Cohere2", WIDE | {"num_hidden_layers": 5, "sliding_window": 21}),
    case("qwen2_plain", "Qwen2", SIZES),
    case("smollm3_published", "SmolLM3", SIZES | {"num_hidden_layers": 4, "tie_word_embeddings": False}),
    case("starcoder2_plain", "Starcoder2", SIZES),
    case("mixtral_plain", "Mixtral", SIZES | FIVE | {"sliding_window": None}),
)
NORM_KEYS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon")


def metadata(arch: str, config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """What the converter writes of a config."""
    rope, heads = config["rope_parameters"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = rope.get("full_attention", rope)  # Gemma 3 has two sets
    eps = next(config[key] for key in NORM_KEYS if key in config)
    kind = "layer_norm_rms_epsilon" if "rms_norm_eps" in config else "layer_norm_epsilon"
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        f"attention.{kind}": eps,
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        **extra,
    }
    tokens = ["he", *byte_level_tokens()][:VOCAB]
    tokenizer = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "token_type": [1] * VOCAB, "merges": ["h e"]}
    return {f"{arch}.{k}": v for k, v in keys.items()} | {f"tokenizer.ggml.{k}": v for k, v in tokenizer.items()}


def converted(arch: str, config: dict[str, Any], tensors: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
    """Names, row order and norms as the converter writes them."""
    tensors = stacked(tensors)
    (code,) = (code for code, text in gguf.MODEL_ARCH_NAMES.items() if text == arch)
    names, family = gguf.get_tensor_name_map(code, config["num_hidden_layers"]), GGUF_FAMILIES[arch]
    heads = config["num_attention_heads"]
    counts = {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}
    result = {}
    for name, values in tensors.items():
        module, _, parameter = name.rpartition(".")
        if family.permuted and (count := counts.get(module.rpartition(".")[2])):
            values = interleave(values, count)
        if family.separated and module.endswith("query_key_value"):
            values = separate(values, heads)
        if family.norm_offset and "norm" in module and parameter == "weight":
            values = values + np.float32(family.norm_offset)
        result[f"{names.get_name(module)}.{parameter}"] = values
    return result


def stacked(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Experts of a layer in one tensor, in order; a gate to one column without that axis."""
    result, experts = {}, defaultdict(list)
    for name in sorted(tensors, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")]):
        if (plain := re.sub(r"\.experts\.\d+\.", ".experts.", name)) != name:
            experts[plain].append(tensors[name])
        else:
            result[name] = tensors[name][0] if "shared_expert_gate" in name else tensors[name]
    return result | {name: np.stack(matrices) for name, matrices in experts.items()}


def separate(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """GPT-NeoX's q, k, v of each head as all q, all k, all v (one kv head per query)."""
    each = rows.reshape(heads, 3, -1, *rows.shape[1:])
    return np.ascontiguousarray(each.swapaxes(0, 1)).reshape(rows.shape)


def factors(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """LongRoPE's factors, which are tensors."""
    scaling = config["rope_parameters"]
    if scaling.get("rope_type") != "longrope":
        return {}
    return {f"rope_factors_{w}.weight": np.array(scaling[f"{w}_factor"], np.float32) for w in ("short", "long")}


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("variant", [c for c in (*DENSE, *EXPERTS, *ALSO) if c.id in KEYS], ids=lambda c: c.id)
def test_a_converted_model_is_the_model(
    variant: Case, tmp_path: Path, write_gguf: Callable[[GGUFContents], Path]
) -> None:
    model = make_checkpoint(variant, tmp_path / "checkpoint")
    original = open_checkpoint(tmp_path / "checkpoint")
    config, (arch, extra) = dict(model.config.to_dict()), KEYS[variant.id]
    config["architectures"] = [variant.model]
    tensors = {name: tensor.load().astype(np.float32) for name, tensor in original.tensors.items()}
    stored = converted(arch, config, tensors) | factors(config)
    found = open_checkpoint(write_gguf(GGUFContents(arch, metadata(arch, config, extra(config)), stored)))
    assert found.tensors.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_allclose(found.tensors[name].load(), values, rtol=1e-6, atol=1e-6)  # 1 + w loses the last bit
    assert traced(found.config, found.tensors) == traced(config, found.tensors)


def traced(config: Any, tensors: Any) -> str:
    return print_module(trace(config, partial(require, tensors), CACHE, Limits(64, 4, 160)))


def test_every_family_of_the_format_is_read_here() -> None:
    assert {arch for arch, _ in KEYS.values()} == GGUF_FAMILIES.keys()
