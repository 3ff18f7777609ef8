"""Qwen 2 and 3 with a mixture of experts (transformers `modeling_qwen2_moe`, `modeling_qwen3_moe`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import mixture, read_experts, with_shared
from warploom.frontend.models.mlp import Mlp, gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import Sizes, read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read, third = ConfigReader(config, "Qwen MoE"), config["architectures"][0] == "Qwen3MoeForCausalLM"
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-6))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    bias = read.flag("attention_bias", False) if third else read.flag("qkv_bias", True)
    project = separate(heads, bias=bias, qk_norm=norm if third else None)
    attention = self_attention(heads, project, out_bias=bias and third)
    read.expect("use_sliding_window", False)
    read.ignore("sliding_window", "max_window_layers", "layer_types")
    blocks = _blocks(read, sizes, third)
    read.finish()
    return Decoder(sizes, tuple(pre_norm(norm, attention, block) for block in blocks), norm)


def _blocks(read: ConfigReader, sizes: Sizes, third: bool) -> list[Mlp]:
    """The feed-forward block of each layer: experts in every `decoder_sparse_step`-th that is not named as dense."""
    act = read.expect("hidden_act", "silu")
    experts = read_experts(read, read.integer("moe_intermediate_size"))
    sparse = mixture(experts, act) if third else with_shared(experts, read.integer("shared_expert_intermediate_size"))
    every, dense = read.integer("decoder_sparse_step", 1), read.items("mlp_only_layers")
    plain = gated(sizes.intermediate, act)
    return [plain if i in dense or (i + 1) % every else sparse for i in range(sizes.layers)]


FAMILY = Family(
    "Qwen MoE",
    ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
    parse,
    ("mixture of experts", "shared expert", "dense layers between", "QK-norm"),
    checked=("cpu", "cuda"),
)
