"""BLOOM (transformers `modeling_bloom`): ALiBi, a LayerNorm of embeddings, biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, together
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder, Names
from warploom.frontend.models.mlp import plain
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import INPUT, MLP, POST_ATTENTION, pre_norm
from warploom.frontend.models.sizes import read_older_sizes

SPELLINGS = (("hidden_size", "n_embed"), ("n_head", "num_attention_heads"))  # new and old
TRAINED_CONTEXT = 2048  # of the published models, some of whose configs do not say


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "BLOOM")
    hidden, count = (new if new in read else old for new, old in SPELLINGS)
    sizes = read_older_sizes(read, hidden, count, "n_layer", "seq_length", default_context=TRAINED_CONTEXT)
    norm = layer_norm(read.real("layer_norm_epsilon", 1e-5))
    heads = Heads.of(sizes, None, alibi=1.0)
    project = together(heads, "query_key_value", bias=True, by_kv_head=True)
    attention = self_attention(heads, project, out="dense", out_bias=True)
    mlp = plain(sizes.intermediate, "gelu_new", ("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    layer = pre_norm(norm, attention, mlp, names=(INPUT, "self_attention", POST_ATTENTION, MLP))
    read.expect("apply_residual_connection_post_layernorm", False)
    read.ignore(*MEGATRON, *(old for _, old in SPELLINGS))
    read.finish()
    return Decoder(
        sizes,
        (layer,) * sizes.layers,
        norm,
        Names("transformer", "word_embeddings", "h", "ln_f"),
        embedded=lambda weights, x, step: norm(weights / "word_embeddings_layernorm", x),
    )


# How the code that trained it adds the same numbers up; `offset_alibi` is the length of its table of distances.
MEGATRON = (
    *("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi"),
    *("skip_bias_add", "skip_bias_add_qkv", "slow_but_exact"),
)


FAMILY = Family(
    "BLOOM",
    ("BloomForCausalLM",),
    parse,
    ("ALiBi", "LayerNorm (of embeddings too)", "plain GELU MLP"),
    checked=("cpu", "cuda"),
)
