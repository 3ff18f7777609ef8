"""Qwen 2, 2.5 and 3 (transformers `modeling_qwen2`, `modeling_qwen3`)."""

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
    read, third = ConfigReader(config, "Qwen"), config["architectures"][0] == "Qwen3ForCausalLM"
    sizes, norm = read_sizes(read, head_dim=128 if third else None), rms(read.real("rms_norm_eps", 1e-6))
    rotary = read_rotary(read, sizes.head_dim)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))
    bias = read.flag("attention_bias", False) if third else True  # Qwen 2: of q, k and v always, of o never

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary, window=window)
        project = separate(heads, bias=bias, qk_norm=norm if third else None)
        return pre_norm(norm, self_attention(heads, project, out_bias=bias and third), mlp)

    windows = _windows(read, sizes.layers)
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


def _windows(read: ConfigReader, layers: int) -> list[int]:
    """`sliding_window` counts if `use_sliding_window` says so, from layer `max_window_layers` on."""
    first = read.integer("max_window_layers", 28, least=0)
    if read.flag("use_sliding_window", False):
        return read_windows(read, layers, default=4096, sliding=lambda index: index >= first)
    read.ignore("sliding_window", "layer_types")
    return [0] * layers


FAMILY = Family(
    "Qwen",
    ("Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    parse,
    ("biases of q, k, v", "QK-norm", "windows"),
    checked=("cpu", "cuda"),
)
