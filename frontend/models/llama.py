"""Llama 2 and 3, SmolLM2, and what shares their architecture (transformers `modeling_llama`)."""

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
    read = ConfigReader(config, "Llama")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-6))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    bias = read.flag("attention_bias", False)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"), bias=read.flag("mlp_bias", False))
    layer = pre_norm(norm, self_attention(heads, separate(heads, bias=bias), out_bias=bias), mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "Llama", ("LlamaForCausalLM",), parse, ("GQA", "every RoPE scaling", "optional biases"), checked=("cpu", "cuda")
)
