"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (transformers `modeling_phi3`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, together
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated_together
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import read_windows


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Phi-3")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    rotary = read_rotary(read, sizes.head_dim, partial=1.0)
    mlp = gated_together(sizes.intermediate, read.expect("hidden_act", "silu"))

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary, window=window)
        return pre_norm(norm, self_attention(heads, together(heads, "qkv_proj")), mlp)

    windows = read_windows(read, sizes.layers)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        read.expect(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):  # of Microsoft's own code
        read.expect(name, 1)
    read.ignore("original_max_position_embeddings")  # counts for the scalings that read it
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


FAMILY = Family(
    "Phi-3",
    ("Phi3ForCausalLM",),
    parse,
    ("fused projections", "partial RoPE", "LongRoPE", "window"),
    checked=("cpu", "cuda"),
)
