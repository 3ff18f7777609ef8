"""SmolLM3 (transformers `modeling_smollm3`): Llama with layers that rotate nothing (NoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import read_windows


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "SmolLM3")
    sizes, norm = read_sizes(read, tied=True), rms(read.real("rms_norm_eps", 1e-6))
    rotary = read_rotary(read, sizes.head_dim, theta=2e6)
    bias = read.flag("attention_bias", False)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"), bias=read.flag("mlp_bias", False))
    interval = read.integer("no_rope_layer_interval", 4)
    rotated = read.items("no_rope_layers") or [(i + 1) % interval != 0 for i in range(sizes.layers)]  # 1: has RoPE
    if len(rotated) != sizes.layers:
        raise read.refusal("no_rope_layers", f"{sizes.layers} of 0 and 1")

    def layer(index: int) -> Layer:
        heads = Heads.of(sizes, rotary if rotated[index] else None, window=windows[index])
        return pre_norm(norm, self_attention(heads, separate(heads, bias=bias), out_bias=bias), mlp)

    sliding = read.flag("use_sliding_window", False)
    windows = read_windows(read, sizes.layers, sliding=lambda i: not rotated[i]) if sliding else [0] * sizes.layers
    read.ignore("sliding_window", "layer_types", "max_window_layers")
    read.finish()
    return Decoder(sizes, tuple(map(layer, range(sizes.layers))), norm)


FAMILY = Family("SmolLM3", ("SmolLM3ForCausalLM",), parse, ("NoPE layers", "windows"), checked=("cpu", "cuda"))
