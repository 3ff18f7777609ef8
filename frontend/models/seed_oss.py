"""Seed-OSS (transformers `modeling_seed_oss`): Llama with biases of q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Seed-OSS")
    sizes, norm = read_sizes(read, head_dim=128), rms(read.real("rms_norm_eps", 1e-6))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    project = separate(heads, bias=read.flag("attention_bias", True))
    attention = self_attention(heads, project, out_bias=read.flag("attention_out_bias", False))
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"), bias=read.flag("mlp_bias", False))
    read.finish()
    return Decoder(sizes, (pre_norm(norm, attention, mlp),) * sizes.layers, norm)


FAMILY = Family("Seed-OSS", ("SeedOssForCausalLM",), parse, ("biases of q, k, v",), checked=("cpu", "cuda"))
