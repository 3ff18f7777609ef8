"""Mistral and Ministral (transformers `modeling_mistral`, `modeling_ministral`): Llama with windows."""

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
    read = ConfigReader(config, "Mistral")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-6))
    rotary = read_rotary(read, sizes.head_dim)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary, window=window)
        return pre_norm(norm, self_attention(heads, separate(heads)), mlp)

    windows = read_windows(read, sizes.layers, default=4096, sliding=lambda index: True)
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


FAMILY = Family(
    "Mistral",
    ("MistralForCausalLM", "MinistralForCausalLM"),
    parse,
    ("sliding window, per layer",),
    checked=("cpu", "cuda"),
)
