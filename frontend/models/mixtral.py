"""Mixtral (transformers `modeling_mixtral`): Mistral with a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import mixture, read_experts
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import ATTENTION, INPUT, POST_ATTENTION, Layer, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import read_windows

NAMES = (INPUT, ATTENTION, POST_ATTENTION, "block_sparse_moe")


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Mixtral")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    rotary = read_rotary(read, sizes.head_dim, theta=1e6)
    experts = replace(read_experts(read, sizes.intermediate, normalized=True), names=("w1", "w3", "w2"))
    mlp = mixture(experts, read.expect("hidden_act", "silu"))

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary, window=window)
        return pre_norm(norm, self_attention(heads, separate(heads)), mlp, names=NAMES)

    windows = read_windows(read, sizes.layers)
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


FAMILY = Family(
    "Mixtral",
    ("MixtralForCausalLM",),
    parse,
    ("mixture of experts", "sliding window"),
    checked=("cpu", "cuda"),
)
