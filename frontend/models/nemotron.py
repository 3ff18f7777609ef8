"""Nemotron 3 and 4, Minitron (transformers `modeling_nemotron`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import plain
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Nemotron")
    sizes, norm = read_sizes(read), layer_norm(read.real("norm_eps", 1e-5), plus_one=True)
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, partial=0.5))
    bias = read.flag("attention_bias", False)
    mlp = plain(sizes.intermediate, read.expect("hidden_act", "relu2"), bias=read.flag("mlp_bias", False))
    layer = pre_norm(norm, self_attention(heads, separate(heads, bias=bias), out_bias=bias), mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "Nemotron",
    ("NemotronForCausalLM",),
    parse,
    ("squared ReLU", "LayerNorm by 1 + weight", "partial RoPE"),
    checked=("cpu", "cuda"),
)
