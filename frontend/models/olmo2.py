"""OLMo 2 (transformers `modeling_olmo2`): norms after attention and MLP, and of all queries and keys at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import post_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "OLMo 2")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    bias = read.flag("attention_bias", False)
    project = separate(heads, bias=bias, qk_norm=norm, norm_all=True)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))
    layer = post_norm(norm, self_attention(heads, project, out_bias=bias), mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "OLMo 2", ("Olmo2ForCausalLM",), parse, ("norms after", "QK-norm of all heads"), checked=("cpu", "cuda")
)
