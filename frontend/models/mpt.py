"""MPT (transformers `modeling_mpt`): ALiBi, LayerNorm without bias, clipped projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, clipped, self_attention, together
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder, Names
from warploom.frontend.models.mlp import plain
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.sizes import read_older_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "MPT")
    inside = ConfigReader(read.part("attn_config"), "MPT (attn_config)")
    sizes = read_older_sizes(read, "d_model", "n_heads", "n_layers", "max_seq_len")
    norm = layer_norm(read.real("layer_norm_epsilon", 1e-5), bias=False)
    heads = Heads.of(sizes, None, scale=inside.real("softmax_scale", 0.0), alibi=1.0)
    project = clipped(together(heads, "Wqkv"), inside.real("clip_qkv", 0.0))
    attention = self_attention(heads, project, out="out_proj")
    mlp = plain(sizes.intermediate, "gelu")
    layer = pre_norm(norm, attention, mlp, names=("norm_1", "attn", "norm_2", "ffn"))
    _check(read, inside)
    return Decoder(sizes, (layer,) * sizes.layers, norm, Names("transformer", "wte", "blocks", "norm_f"))


def _check(read: ConfigReader, inside: ConfigReader) -> None:
    """Refuse what transformers' model does not have either, which MosaicML's code did."""
    read.expect("expansion_ratio", 4)
    read.expect("no_bias", True)
    read.expect("logit_scale", None)
    read.expect("norm_type", "low_precision_layernorm", "layernorm")
    read.ignore("attn_config", "learned_pos_emb")  # positions are learned where there is no ALiBi
    read.ignore("init_config", "init_device", "embedding_fraction", "emb_pdrop", "tokenizer_name", "verbose")
    read.finish()
    inside.expect("attn_type", "multihead_attention")
    inside.expect("alibi", True)
    inside.expect("alibi_bias_max", 8)
    for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        inside.expect(name, False)
    inside.ignore("attn_impl")
    inside.finish()


FAMILY = Family(
    "MPT",
    ("MptForCausalLM", "MPTForCausalLM"),
    parse,
    ("ALiBi", "LayerNorm without bias", "clipped q, k, v"),
    checked=("cpu", "cuda"),
)
