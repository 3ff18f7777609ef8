"""OLMoE (transformers `modeling_olmoe`): a mixture of experts, norms of all queries and keys at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, clipped, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import mixture, read_experts
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "OLMoE")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    bias = read.flag("attention_bias", False)
    project = clipped(separate(heads, bias=bias, qk_norm=norm, norm_all=True), read.real("clip_qkv", 0.0))
    mlp = mixture(read_experts(read, sizes.intermediate), read.expect("hidden_act", "silu"))
    layer = pre_norm(norm, self_attention(heads, project, out_bias=bias), mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "OLMoE",
    ("OlmoeForCausalLM",),
    parse,
    ("mixture of experts", "QK-norm of all heads"),
    checked=("cpu", "cuda"),
)
