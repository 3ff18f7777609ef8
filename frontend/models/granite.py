"""Granite 3 (transformers `modeling_granite`): Llama with multipliers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import scaled
from warploom.frontend.models.mlp import Mlp, gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import ATTENTION, INPUT, MLP, POST_ATTENTION, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import Sizes, read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    return read_model(ConfigReader(config, "Granite"), MLP, _gated)


def read_model(read: ConfigReader, module: str, read_mlp: Callable[[ConfigReader, Sizes], Mlp]) -> Decoder:
    """Read a whole config; `module` is that of the feed-forward block, which `read_mlp` reads."""
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-6))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim), scale=read.real("attention_multiplier", 1.0))
    bias = read.flag("attention_bias", False)
    attention = self_attention(heads, separate(heads, bias=bias), out_bias=bias)
    names, added = (INPUT, ATTENTION, POST_ATTENTION, module), read.real("residual_multiplier", 1.0)
    layer = pre_norm(norm, attention, read_mlp(read, sizes), multiplier=added, names=names)
    embedding, logits = read.real("embedding_multiplier", 1.0), read.positive("logits_scaling", 1.0)
    read.finish()
    return Decoder(
        sizes,
        (layer,) * sizes.layers,
        norm=lambda weights, x: scaled(norm(weights, x), 1 / logits),  # of rows, which are shorter than logits
        embedded=lambda weights, x, step: scaled(x, embedding),
    )


def _gated(read: ConfigReader, sizes: Sizes) -> Mlp:
    return gated(sizes.intermediate, read.expect("hidden_act", "silu"), bias=read.flag("mlp_bias", False))


FAMILY = Family(
    "Granite",
    ("GraniteForCausalLM",),
    parse,
    ("embedding, residual, score and logit multipliers",),
    checked=("cpu", "cuda"),
)
