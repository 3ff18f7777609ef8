"""Falcon 7B, 40B and 180B, and RW with ALiBi (transformers `modeling_falcon`)."""

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
from warploom.frontend.models.sizes import Sizes

ATTENTION = "self_attention"


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Falcon")
    new = read.flag("new_decoder_architecture", False)
    sizes, norm = _sizes(read, new), layer_norm(read.real("layer_norm_epsilon", 1e-5))
    read.expect("apply_residual_connection_post_layernorm", False)
    if read.flag("alibi", False):  # scaled as scores are
        read.ignore("rope_theta", "rope_scaling", "rope_parameters")
        heads = Heads.of(sizes, None, alibi=sizes.head_dim**-0.5)
    else:
        heads = Heads.of(sizes, read_rotary(read, sizes.head_dim))
    bias = read.flag("bias", False)
    project = together(heads, "query_key_value", bias=bias, by_kv_head=True)
    attention = self_attention(heads, project, out="dense", out_bias=bias)
    act = read.expect("activation", "gelu", *ACTIVATIONS)
    mlp = plain(sizes.intermediate, act, ("dense_h_to_4h", "dense_4h_to_h"), bias=bias)
    two = new and read.get("num_ln_in_parallel_attn", 2) == 2
    read.ignore("num_ln_in_parallel_attn")
    if read.flag("parallel_attn", True):
        layer = parallel(
            norm, attention, mlp, norms=("ln_attn", "ln_mlp") if two else (INPUT, INPUT), attention=ATTENTION
        )
    else:
        layer = pre_norm(norm, attention, mlp, names=(INPUT, ATTENTION, POST_ATTENTION, MLP))
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, norm, Names("transformer", "word_embeddings", "h", "ln_f"))


def _sizes(read: ConfigReader, new: bool) -> Sizes:
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    if hidden < heads:
        raise read.refusal("hidden_size", f"at least num_attention_heads={heads}")
    several = read.integer("num_kv_heads", heads)
    kv_heads = 1 if read.flag("multi_query", True) and not new else several
    return Sizes(
        vocab=read.integer("vocab_size"),
        hidden=hidden,
        intermediate=read.integer("ffn_hidden_size", 4 * hidden),
        layers=read.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        max_context=read.integer("max_position_embeddings", 2048),
        tied=read.flag("tie_word_embeddings", True),
    )


FAMILY = Family(
    "Falcon",
    ("FalconForCausalLM",),
    parse,
    ("parallel residual", "multi-query", "LayerNorm", "plain GELU MLP", "optional ALiBi"),
    checked=("cpu", "cuda"),
)
