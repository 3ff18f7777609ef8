"""EXAONE 4 (transformers `modeling_exaone4`): OLMo 2's norms, QK-norm of heads, windows with RoPE, the rest NoPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, post_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import read_windows


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "EXAONE 4")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    rotary = read_rotary(read, sizes.head_dim)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))
    hybrid = read.stated("sliding_window", 4096) is not None

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary if window or not hybrid else None, window=window)
        return post_norm(norm, self_attention(heads, separate(heads, qk_norm=norm)), mlp)

    windows = read_windows(read, sizes.layers, default=4096, sliding=_sliding(read, sizes.layers))
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


def _sliding(read: ConfigReader, layers: int) -> Any:
    """`sliding_window_pattern`: every so many layers one sees everything, or letters L and G, the last layer G."""
    pattern = read.get("sliding_window_pattern", 4)
    if isinstance(pattern, str) and pattern:
        return lambda index: pattern[index % len(pattern)] == "L" and index < layers - 1
    every = read.integer("sliding_window_pattern", 4)
    return lambda index: (index + 1) % every != 0


FAMILY = Family(
    "EXAONE 4",
    ("Exaone4ForCausalLM",),
    parse,
    ("norms after", "QK-norm", "windows", "NoPE layers"),
    checked=("cpu", "cuda"),
)
