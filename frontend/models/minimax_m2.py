"""MiniMax-M2 (transformers `modeling_minimax_m2`): Mixtral with sigmoid routing, QK-norm of all heads, partial RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import mixture, read_experts
from warploom.frontend.models.mixtral import NAMES
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.routing import biased_router
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "MiniMax-M2")
    sizes, norm = read_sizes(read, head_dim=128), rms(read.real("rms_norm_eps", 1e-6))
    partial = read.integer("rotary_dim", sizes.head_dim) / sizes.head_dim
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, theta=5e6, partial=partial))
    attention = self_attention(heads, separate(heads, qk_norm=norm, norm_all=True))
    experts = replace(read_experts(read, sizes.intermediate, normalized=True), names=("w1", "w3", "w2"))
    router = biased_router(experts, bias="e_score_correction_bias")
    mlp = mixture(experts, read.expect("hidden_act", "silu"), router)
    _check(read)
    return Decoder(sizes, (pre_norm(norm, attention, mlp, names=NAMES),) * sizes.layers, norm)


def _check(read: ConfigReader) -> None:
    """Fields that MiniMax's other models need."""
    for name, value in (("scoring_func", "sigmoid"), ("qk_norm_type", "per_layer"), ("shared_moe_mode", "sigmoid")):
        read.expect(name, value)
    for name in ("use_qk_norm", "use_routing_bias"):
        read.expect(name, True)
    for name in ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"):
        read.expect(name, 1.0)
    read.expect("shared_intermediate_size", 0)
    read.expect("sliding_window", None)
    if any(kind != 1 for kind in read.items("attn_type_list")):
        raise read.refusal("attn_type_list", "1 alone, which is full attention")
    read.ignore("mlp_intermediate_size")  # of layers without experts, of which there are none
    read.ignore("mtp_transformer_layers", "num_mtp_modules", "use_mtp")  # heads that predict further tokens
    read.finish()


FAMILY = Family(
    "MiniMax-M2",
    ("MiniMaxM2ForCausalLM",),
    parse,
    ("mixture of experts", "sigmoid routing", "QK-norm of all heads", "partial RoPE"),
    checked=("cpu", "cuda"),
)
