"""Command-R and Command-R7B (transformers `modeling_cohere`, `modeling_cohere2`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.attention import Heads, halves_first, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import scaled, width
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, parallel
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.weights import Weights
from warploom.frontend.models.windows import read_windows
from warploom.ir.ops.norm import layer_norm as normalize
from warploom.ir.ops.shape import reshape
from warploom.ir.types import type_of


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read, second = ConfigReader(config, "Cohere"), config["architectures"][0] == "Cohere2ForCausalLM"
    sizes, eps = read_sizes(read, tied=True), read.real("layer_norm_eps", 1e-5)
    rotary = read_rotary(read, sizes.head_dim, theta=10000.0 if second else 500000.0, interleaved=True)
    norm, bias = layer_norm(eps, bias=False), read.flag("attention_bias", False)
    qk_norm = read.flag("use_qk_norm", False)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))
    scale = read.real("logit_scale", 0.0625)

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary if window or not second else None, window=window)
        project = separate(heads, bias=bias, qk_norm=_per_head(heads, eps) if qk_norm else None)
        return parallel(norm, self_attention(heads, project, out_bias=bias), mlp)

    windows = [0] * sizes.layers
    if second:
        pattern = read.integer("sliding_window_pattern", 4)
        windows = read_windows(read, sizes.layers, default=4096, sliding=lambda index: (index + 1) % pattern != 0)
        read.expect("position_embedding_type", "rope_gptj")
        read.expect("rotary_pct", 1.0)
        read.expect("order_of_interleaved_layers", "local_attn_first")
        read.ignore(*_COHERE_OWN)
    read.ignore("model_max_length", "max_sequence_length")
    read.finish()
    return Decoder(
        sizes,
        tuple(map(layer, windows)),
        norm=lambda weights, x: scaled(norm(weights, x), scale),  # of logits
    )


# Switches of Cohere's own code for what the architecture always has; `layer_switch` is `sliding_window_pattern`.
_COHERE_OWN = (
    "layer_switch",
    "use_embedding_sharing",
    "use_gated_activation",
    "use_parallel_block",
    "use_parallel_embedding",
)


def _per_head(heads: Heads, eps: float) -> Norm:
    """LayerNorm of x [T, heads, head_dim] with gains [heads, head_dim], in the order of the projection's rows."""

    def norm(weights: Weights, x: mlir.Value) -> mlir.Value:
        count, size = type_of(x).shape[1], width(x)
        assert isinstance(count, int)
        gains = halves_first(reshape(weights("weight", (count, size)), shape=(count * size,)), heads)
        result: mlir.Value = normalize(x, reshape(gains, shape=(count, size)), eps=eps)
        return result

    return norm


FAMILY = Family(
    "Cohere",
    ("CohereForCausalLM", "Cohere2ForCausalLM"),
    parse,
    ("parallel residual", "LayerNorm", "interleaved RoPE", "windows", "NoPE layers", "QK-norm", "logit scale"),
    checked=("cpu", "cuda"),
)
