"""ERNIE 4.5, dense and with experts (transformers `modeling_ernie4_5`, `modeling_ernie4_5_moe`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import Experts, mixture
from warploom.frontend.models.mlp import Mlp, gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.routing import biased_router
from warploom.frontend.models.sizes import Sizes, read_sizes

BIAS = "moe_statics.e_score_correction_bias"


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read, sparse = ConfigReader(config, "ERNIE 4.5"), config["architectures"][0] == "Ernie4_5_MoeForCausalLM"
    sizes, norm = read_sizes(read, tied=True, head_dim=None if sparse else 128), rms(read.real("rms_norm_eps", 1e-5))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, theta=500000.0, interleaved=True))
    attention = self_attention(heads, separate(heads))
    read.expect("use_bias", False)
    read.ignore("compression_ratio")  # of positions in training
    act = read.expect("hidden_act", "silu")
    blocks: list[tuple[Mlp, ...]] = [(gated(sizes.intermediate, act),)] * sizes.layers
    if sparse:
        blocks = _blocks(read, sizes, act)
    read.finish()
    return Decoder(sizes, tuple(pre_norm(norm, attention, *block) for block in blocks), norm)


def _blocks(read: ConfigReader, sizes: Sizes, act: str) -> list[tuple[Mlp, ...]]:
    """Those of each layer, which are added: experts beside shared ones from one layer to another, in intervals."""
    count, size = read.integer("moe_num_experts", 64), read.integer("moe_intermediate_size", 1536)
    experts = Experts(count, read.integer("moe_k", 6), size)
    if experts.chosen > count:
        raise read.refusal("moe_k", f"at most {count} experts")
    chosen = mixture(experts, act, biased_router(experts, score="softmax", bias=BIAS, bias_shape=(1, count)))
    shared = gated(size * read.integer("moe_num_shared_experts", 2), act)
    first, every = read.integer("moe_layer_start_index", 1, least=0), read.integer("moe_layer_interval", 1)
    end = read.integer("moe_layer_end_index", -1, least=-1)
    last = sizes.layers - 1 if end == -1 else end
    read.expect("moe_norm_min", 1e-12)
    read.expect("moe_gate", "topk")
    read.expect("moe_use_aux_free", True)
    read.ignore("moe_capacity", "output_router_logits", "router_aux_loss_coef", "num_nextn_predict_layers")
    sparse = (lambda weights, x: shared(weights / "shared_experts", x), chosen)
    plain = (gated(sizes.intermediate, act),)
    return [sparse if first <= i <= last and (i + 1) % every == 0 else plain for i in range(sizes.layers)]


FAMILY = Family(
    "ERNIE 4.5",
    ("Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"),
    parse,
    ("interleaved RoPE", "mixture of experts", "shared experts", "routing by biases", "dense layers between"),
    checked=("cpu", "cuda"),
)
