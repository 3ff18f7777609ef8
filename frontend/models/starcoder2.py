"""StarCoder2 (transformers `modeling_starcoder2`): LayerNorm, a plain MLP, biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import plain
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "StarCoder2")
    sizes, norm = read_sizes(read, tied=True), layer_norm(read.real("norm_epsilon", 1e-5))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim), window=read.integer("sliding_window", 0, least=0))
    bias = read.flag("use_bias", True)
    act = read.expect("hidden_act", "gelu_pytorch_tanh", "gelu")
    mlp = plain(sizes.intermediate, act, ("c_fc", "c_proj"), bias=bias)
    layer = pre_norm(norm, self_attention(heads, separate(heads, bias=bias), out_bias=bias), mlp)
    read.expect("norm_type", "layer_norm")
    read.expect("mlp_type", "default")
    read.ignore("activation_function", "layer_norm_epsilon")  # from before hidden_act and norm_epsilon
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm)


FAMILY = Family(
    "StarCoder2",
    ("Starcoder2ForCausalLM",),
    parse,
    ("LayerNorm", "plain GELU MLP", "biases", "window"),
    checked=("cpu", "cuda"),
)
