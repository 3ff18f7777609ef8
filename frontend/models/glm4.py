"""GLM-4 and GLM-4-0414 (transformers `modeling_glm`, `modeling_glm4`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated_together
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import POST_ATTENTION, pre_norm, sandwich
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes

NORMS = ("input_layernorm", "post_self_attn_layernorm", POST_ATTENTION, "post_mlp_layernorm")


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "GLM-4")
    sizes, norm = read_sizes(read, head_dim=128), rms(read.real("rms_norm_eps", 1.5625e-7))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, partial=0.5, interleaved=True))
    attention = self_attention(heads, separate(heads, bias=read.flag("attention_bias", True)))
    mlp = gated_together(sizes.intermediate, read.expect("hidden_act", "silu"))
    newer = config["architectures"][0] == "Glm4ForCausalLM"
    layer = sandwich(norm, attention, mlp, NORMS) if newer else pre_norm(norm, attention, mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "GLM-4",
    ("GlmForCausalLM", "Glm4ForCausalLM"),
    parse,
    ("partial interleaved RoPE", "biases of q, k, v", "norms before and after"),
    checked=("cpu", "cuda"),
)
