"""Every family that GGUF names: what llama.cpp's converter writes of a tiny model is read as that model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.model.families.case import Case, make_checkpoint
from tests.model.families.deepseek_cases import DEEPSEEK, GROUPS, LATENT
from tests.model.families.dense_cases import BLOOM, DENSE, FALCON, FALCON_40B, MPT, SIZES, WIDE, case, rope
from tests.model.families.expert_cases import EXPERTS, FIVE, GPT_OSS, GPT_OSS_YARN
from tests.unit.frontend.gguf_converter import Tensors, converted, metadata
from tests.unit.frontend.tiny_checkpoints import GGUFContents
from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.checkpoint import open_checkpoint
from warploom.frontend.gguf_families import GGUF_FAMILIES, hf_modules
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import LazyTensor, require
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import print_module
from warploom.ir.types import DType

FALCON_11B = FALCON | FALCON_40B | {"num_ln_in_parallel_attn": 1}
GRANITE_MOE = SIZES | FIVE | {"residual_multiplier": 0.4, "attention_multiplier": 0.2, "tie_word_embeddings": True}
WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4}
GEMMA3 = {"sliding_window": 21, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}
CACHE = CacheSpec(page_size=16, dtype=DType.F32, k_layout="dim_major")


def counts(config: dict[str, Any]) -> dict[str, Any]:
    """The converter's keys of experts."""
    count = config.get("num_experts") or config["num_local_experts"]
    keys = {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}
    size = config.get("moe_intermediate_size")
    return keys | ({"expert_feed_forward_length": size} if size else {})


def routed(config: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek's keys of experts."""
    return {
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "leading_dense_block_count": config.get("first_k_dense_replace", 1),
        **({"expert_group_count": config["n_group"]} if config["n_group"] else {}),
        **({"expert_group_used_count": config["topk_group"]} if config["topk_group"] else {}),
    }


def sigmoids(config: dict[str, Any]) -> dict[str, Any]:
    """And of those whose scores are sigmoids."""
    return routed(config) | {"expert_gating_func": 2, "expert_weights_norm": config["norm_topk_prob"]}


def latent(config: dict[str, Any]) -> dict[str, Any]:
    """Sizes of latents, which the converter calls those of one kv head."""
    rotated, scaling = config["qk_rope_head_dim"], config["rope_parameters"]
    keys = {
        "attention.head_count_kv": 1,
        "attention.key_length": config["kv_lora_rank"] + rotated,
        "attention.value_length": config["kv_lora_rank"],
        "attention.key_length_mla": config["qk_nope_head_dim"] + rotated,
        "attention.value_length_mla": config["v_head_dim"],
        "attention.kv_lora_rank": config["kv_lora_rank"],
        "rope.dimension_count": rotated,
    }
    rank = {"attention.q_lora_rank": config["q_lora_rank"]} if config["q_lora_rank"] else {}
    mscale = {"rope.scaling.yarn_log_multiplier": 0.1 * scaling["mscale_all_dim"]} if "mscale" in scaling else {}
    return keys | rank | mscale


def windows(config: dict[str, Any]) -> dict[str, Any]:
    """A window, and the layers that it is of."""
    pattern = [kind == "sliding_attention" for kind in config["layer_types"]]
    return {"attention.sliding_window": config["sliding_window"], "attention.sliding_window_pattern": pattern}


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
    "mixtral_wide": ("llama", counts),
    "qwen3_moe": ("qwen3moe", counts),
    "qwen2_moe": (
        "qwen2moe",
        lambda c: counts(c) | {"expert_shared_feed_forward_length": c["shared_expert_intermediate_size"]},
    ),
    "olmoe": ("olmoe", counts),
    "exaone4": ("exaone4", windows),
    "olmo3": ("olmo2", windows),
    "gpt_oss_published": (
        "gpt-oss",
        lambda c: (
            counts(c)
            | {"attention.sliding_window": c["sliding_window"], "expert_feed_forward_length": c["intermediate_size"]}
        ),
    ),
    "gpt2": ("gpt2", lambda c: {}),
    "falcon_7b": ("falcon", lambda c: {"attention.head_count_kv": 1}),
    "falcon_40b": ("falcon", lambda c: {"attention.head_count_kv": c["num_kv_heads"]}),
    "falcon_11b": ("falcon", lambda c: {"attention.head_count_kv": c["num_kv_heads"]}),
    "bloom_published": ("bloom", lambda c: {}),
    "mpt": ("mpt", lambda c: {"attention.max_alibi_bias": 8.0}),
    "mpt_clipped_published": ("mpt", lambda c: {"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 0.5}),
    "granite_moe_published": (
        "granitemoe",
        lambda c: (
            counts(c) | {"attention.scale": c["attention_multiplier"], "residual_scale": c["residual_multiplier"]}
        ),
    ),
    "ernie4_5": ("ernie4_5", lambda c: {}),
    "ernie4_5_moe": (
        "ernie4_5-moe",
        lambda c: {
            "expert_count": c["moe_num_experts"],
            "expert_used_count": c["moe_k"],
            "expert_feed_forward_length": c["moe_intermediate_size"],
            "expert_shared_count": c["moe_num_shared_experts"],
            "leading_dense_block_count": c["moe_layer_start_index"],
            "interleave_moe_layer_step": c["moe_layer_interval"],
        },
    ),
    "minimax_m2": ("minimax-m2", lambda c: counts(c) | {"expert_feed_forward_length": c["intermediate_size"]}),
    "glm4_moe": ("glm4moe", lambda c: sigmoids(c)),
    "deepseek_v2_published": ("deepseek2", lambda c: latent(c) | routed(c)),
    "deepseek_v2": ("deepseek2", lambda c: latent(c) | routed(c)),
    "deepseek_v3_published": ("deepseek2", lambda c: latent(c) | sigmoids(c)),
    "glm4_moe_lite": (
        "deepseek2",  # whose config says nothing of scores, and so the file does not
        lambda c: latent(c) | routed(c) | {"expert_weights_norm": c["norm_topk_prob"]},
    ),
}
MSCALES = rope(rope_type="yarn", factor=4.0, mscale=0.8, mscale_all_dim=0.8, original_max_position_embeddings=64)
# Variants that the format can say: Gemma's scale by the size of a head, its and SmolLM3's usual patterns of layers,
# equal mscale and mscale_all_dim.
ALSO = (
    case("gemma2_published", "Gemma2", WIDE | {"sliding_window": 21, "query_pre_attn_scalar": 16}),
    case("gemma3_published", "Gemma3", WIDE | GEMMA3, config="Gemma3TextConfig"),
    case("cohere2_published", "Cohere2", WIDE | {"num_hidden_layers": 5, "sliding_window": 21}),
    case("qwen2_plain", "Qwen2", SIZES),
    case("smollm3_published", "SmolLM3", SIZES | {"num_hidden_layers": 4, "tie_word_embeddings": False}),
    case("starcoder2_plain", "Starcoder2", SIZES),
    case("falcon_11b", "Falcon", FALCON_11B),
    case("gpt_oss_published", "GptOss", GPT_OSS | GPT_OSS_YARN | {"swiglu_limit": 7.0}),
    case("bloom_published", "Bloom", BLOOM | {"seq_length": 160}),
    case("mpt_clipped_published", "Mpt", MPT | {"attn_config": {"clip_qkv": 0.5}}),
    case("granite_moe_published", "GraniteMoe", GRANITE_MOE),
    case("deepseek_v2_published", "DeepseekV2", LATENT | MSCALES | {"q_lora_rank": None, "n_shared_experts": 2}),
    case("deepseek_v3_published", "DeepseekV3", LATENT | MSCALES | GROUPS | {"q_lora_rank": 33}),
    case("mixtral_wide", "Mixtral", SIZES | FIVE | {"sliding_window": None} | WHOLE_BLOCKS),
    case("mixtral_plain", "Mixtral", SIZES | FIVE | {"sliding_window": None}),
)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(
    "variant", [c for c in (*DENSE, *EXPERTS, *DEEPSEEK, *ALSO) if c.id in KEYS], ids=lambda c: c.id
)
def test_a_converted_model_is_the_model(
    variant: Case, tmp_path: Path, write_gguf: Callable[[GGUFContents], Path]
) -> None:
    model = make_checkpoint(variant, tmp_path / "checkpoint")
    original = open_checkpoint(tmp_path / "checkpoint")
    config, (arch, extra) = dict(model.config.to_dict()), KEYS[variant.id]
    config["architectures"] = [variant.model]
    tensors = floats(original.tensors)
    stored = converted(arch, config, tensors)
    found = open_checkpoint(write_gguf(GGUFContents(arch, metadata(arch, config, extra(config)), stored)))
    assert found.tensors.keys() == tensors.keys()
    read = floats(found.tensors)
    for name, values in tensors.items():
        np.testing.assert_allclose(read[name], values, rtol=1e-6, atol=1e-6)  # 1 + w loses the last bit
    assert traced(found.config, found.tensors) == traced(config, found.tensors)


def floats(tensors: Mapping[str, LazyTensor]) -> Tensors:
    """All that there are."""
    return {name: tensor.load().astype(np.float32) for name, tensor in tensors.items()}


def traced(config: Any, tensors: Any) -> str:
    return print_module(trace(config, partial(require, tensors), CACHE, Limits(64, 4, 160)))


def test_every_family_of_the_format_is_read_here() -> None:
    assert {arch for arch, _ in KEYS.values()} == GGUF_FAMILIES.keys()


NEXT = "NEXTN_"  # of layers that predict further tokens
FACTORS = {"ROPE_FREQS", "ROPE_FACTORS_LONG", "ROPE_FACTORS_SHORT", "ATTN_ROT_EMBD"}  # in the config, or computed
# What the format has for models that transformers' model of the family, or ours, is not: refused where it occurs.
ELSEWHERE = {
    "granitemoe": {"FFN_GATE_SHEXP", "FFN_UP_SHEXP", "FFN_DOWN_SHEXP"},  # GraniteMoeShared
    "phi3": {"ATTN_Q", "ATTN_K", "ATTN_V"},  # of LoRA
    "mpt": {"FFN_ACT", "ATTN_Q_NORM", "ATTN_K_NORM", "POS_EMBD"},  # MosaicML's other variants
    "stablelm": {"ATTN_Q_NORM", "ATTN_K_NORM"},  # norms of each head, of StableLM 2 12B
    "glm4": {"ATTN_QKV"},
}


@pytest.mark.parametrize("arch", GGUF_FAMILIES)
def test_every_tensor_that_the_format_has_for_an_architecture_is_known(arch: str) -> None:
    (code,) = (code for code, text in gguf.MODEL_ARCH_NAMES.items() if text == arch)
    family = GGUF_FAMILIES[arch]
    read = {stored for one in (family, *(family.other or ())[1:]) for stored in hf_modules(arch, one, num_layers=1)}
    known = {gguf.TENSOR_NAMES[kind].format(bid=0): kind.name for kind in gguf.MODEL_TENSORS[code]}
    assert read <= known.keys()
    left = {name for stored, name in known.items() if stored not in read and not name.startswith(NEXT)}
    assert left - FACTORS == ELSEWHERE.get(arch, set())


@pytest.fixture
def convert(tmp_path: Path, write_gguf: Callable[[GGUFContents], Path]) -> Callable[[str], GGUFContents]:
    """What the converter writes of a case."""

    def contents(id: str) -> GGUFContents:
        (variant,) = (c for c in (*DENSE, *EXPERTS, *DEEPSEEK, *ALSO) if c.id == id)
        config, (arch, extra) = make_checkpoint(variant, tmp_path / "checkpoint").config.to_dict(), KEYS[id]
        tensors = floats(open_checkpoint(tmp_path / "checkpoint").tensors)
        return GGUFContents(arch, metadata(arch, config, extra(config)), converted(arch, config, tensors))

    return contents


def test_layers_that_predict_further_tokens_are_left_out(
    convert: Callable[[str], GGUFContents], write_gguf: Callable[[GGUFContents], Path]
) -> None:
    contents = convert("glm4_moe")
    plain = open_checkpoint(write_gguf(contents))
    contents.metadata |= {"glm4moe.block_count": 3, "glm4moe.nextn_predict_layers": 1}
    extra = ("blk.2.nextn.eh_proj.weight", "blk.2.attn_norm.weight")
    contents.tensors = {**contents.tensors, **{name: np.ones((4, 4), np.float32) for name in extra}}
    found = open_checkpoint(write_gguf(contents))
    assert found.config == plain.config
    assert found.tensors.keys() == plain.tensors.keys()


def test_older_files_of_deepseek_hold_the_map_of_latents_whole(
    convert: Callable[[str], GGUFContents], write_gguf: Callable[[GGUFContents], Path]
) -> None:
    contents = convert("deepseek_v2")
    new = open_checkpoint(write_gguf(contents))
    sizes = {key: new.config[f] for key, f in (("key", "qk_nope_head_dim"), ("value", "v_head_dim"))}
    contents.metadata |= {
        "deepseek2.attention.key_length": sizes["key"] + new.config["qk_rope_head_dim"],
        "deepseek2.attention.value_length": sizes["value"],
    }
    for key in ("key_length_mla", "value_length_mla"):
        del contents.metadata[f"deepseek2.attention.{key}"]
    whole = {
        f"blk.{i}.attn_kv_b.weight": floats(new.tensors)[f"model.layers.{i}.self_attn.kv_b_proj.weight"]
        for i in range(2)
    }
    parts = ("attn_k_b.weight", "attn_v_b.weight")
    contents.tensors = {k: v for k, v in contents.tensors.items() if not k.endswith(parts)} | whole
    old = open_checkpoint(write_gguf(contents))
    assert old.config == new.config
    assert old.tensors.keys() == new.tensors.keys()


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(("kind", "op"), [("MXFP4", "wl.dequantize_mxfp4"), ("Q8_0", "wl.dequantize"), ("Q5_0", None)])
def test_experts_keep_the_numbers_that_kernels_read(
    kind: str, op: str | None, convert: Callable[[str], GGUFContents], write_gguf: Callable[[GGUFContents], Path]
) -> None:
    contents = convert("mixtral_wide")
    contents.kind = gguf.GGMLQuantizationType[kind]
    found = open_checkpoint(write_gguf(contents))
    text = traced(found.config, found.tensors)
    for name in ('"wl.dequantize_mxfp4"', '"wl.dequantize"'):
        assert (name in text) == (name.strip('"') == op)


def test_half_of_a_tensor_is_not_enough(
    convert: Callable[[str], GGUFContents], write_gguf: Callable[[GGUFContents], Path]
) -> None:
    contents = convert("deepseek_v2")
    contents.tensors = {k: v for k, v in contents.tensors.items() if k != "blk.1.attn_v_b.weight"}
    with pytest.raises(CheckpointError, match=r"lacks what model\.layers\.1\.self_attn\.kv_b_proj\.weight is made of"):
        open_checkpoint(write_gguf(contents))


@pytest.mark.parametrize(
    ("id", "keys", "tensors", "message"),
    [
        ("falcon_7b", {}, {"blk.0.attn_qkv.bias": (112,)}, "a Falcon with biases"),
        ("granite_moe_published", {"granitemoe.expert_shared_feed_forward_length": 8}, {}, "a Granite with shared"),
        ("deepseek_v2", {"deepseek2.rope.scaling.type": "yarn"}, {}, "lacks metadata"),
    ],
)
def test_what_the_format_does_not_tell_is_refused(
    id: str,
    keys: dict[str, Any],
    tensors: dict[str, tuple[int, ...]],
    message: str,
    convert: Callable[[str], GGUFContents],
    write_gguf: Callable[[GGUFContents], Path],
) -> None:
    contents = convert(id)
    contents.metadata |= keys
    contents.tensors = {**contents.tensors, **{name: np.ones(shape, np.float32) for name, shape in tensors.items()}}
    with pytest.raises((UnsupportedModelError, CheckpointError), match=message):
        open_checkpoint(write_gguf(contents))
