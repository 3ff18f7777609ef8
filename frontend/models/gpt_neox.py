"""GPT-NeoX and Pythia (transformers `modeling_gpt_neox`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, together
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder, Names
from warploom.frontend.models.mlp import ACTIVATIONS, plain
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import INPUT, MLP, POST_ATTENTION, parallel, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "GPT-NeoX")
    sizes, norm = read_sizes(read), layer_norm(read.real("layer_norm_eps", 1e-5))
    theta, part = read.real("rotary_emb_base", 10000.0), read.real("rotary_pct", 0.25)  # before rope_parameters
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, theta=theta, partial=part))
    bias = read.flag("attention_bias", True)
    project = together(heads, "query_key_value", bias=bias, by_kv_head=True)
    attention = self_attention(heads, project, out="dense", out_bias=bias)
    act = read.expect("hidden_act", "gelu", *ACTIVATIONS)
    mlp = plain(sizes.intermediate, act, ("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    if read.flag("use_parallel_residual", True):
        layer = parallel(norm, attention, mlp, norms=(INPUT, POST_ATTENTION), attention="attention")
    else:
        layer = pre_norm(norm, attention, mlp, names=(INPUT, "attention", POST_ATTENTION, MLP))
    read.finish()
    names = Names("gpt_neox", "embed_in", "layers", "final_layer_norm", "embed_out")
    return Decoder(sizes, (layer,) * sizes.layers, norm, names)


FAMILY = Family(
    "GPT-NeoX",
    ("GPTNeoXForCausalLM",),
    parse,
    ("parallel residual", "LayerNorm", "partial RoPE", "plain GELU MLP"),
    checked=("cpu", "cuda"),
)
