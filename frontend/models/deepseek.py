"""What DeepSeek-V2 and V3 share: latent attention, a few dense layers, then experts beside shared ones (GLM-4.5)."""

from __future__ import annotations

from collections.abc import Callable

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.experts import Experts, Router, mixture
from warploom.frontend.models.latent_attention import attend_latents, read_latent_heads
from warploom.frontend.models.mlp import Mlp, gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.routing import Groups
from warploom.frontend.models.sizes import Sizes

LATENT_EPS = 1e-6  # of the norms of latents, whatever the config says of others
ROUTING = (
    "ep_size",  # of training: how experts were spread
    *("aux_loss_alpha", "seq_aux", "router_aux_loss_coef", "output_router_logits"),  # of training too
    *("num_nextn_predict_layers", "num_mtp_layers"),  # heads that predict further tokens: weights that are left unread
    # Read where there is a layer with experts:
    *("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
)


def read_decoder(read: ConfigReader, router: Callable[[Experts], Router], *, dense: int, interleaved: bool) -> Decoder:
    """Read all that is not routing; `dense` is the family's default of layers before the first with experts.

    Raises:
        UnsupportedModelError: what is not implemented.
    """
    heads = read_latent_heads(read, interleaved)
    sizes = Sizes(
        vocab=read.integer("vocab_size"),
        hidden=read.integer("hidden_size"),
        intermediate=read.integer("intermediate_size"),
        layers=read.integer("num_hidden_layers"),
        heads=heads.heads,
        kv_heads=1,
        head_dim=heads.row,
        max_context=read.integer("max_position_embeddings"),
        tied=read.flag("tie_word_embeddings", False),
        latent=heads.latent,
    )
    norm, attention = rms(read.real("rms_norm_eps", 1e-6)), attend_latents(heads, rms(LATENT_EPS))
    blocks = read_blocks(read, sizes, router, dense)
    return Decoder(sizes, tuple(pre_norm(norm, attention, *block) for block in blocks), norm)


def read_blocks(
    read: ConfigReader, sizes: Sizes, router: Callable[[Experts], Router], dense: int
) -> list[tuple[Mlp, ...]]:
    """Read the feed-forward blocks of each layer, which are added: one, or the shared experts and the chosen ones."""
    act, bias = read.expect("hidden_act", "silu"), read.flag("mlp_bias", False)
    first, every = _first_sparse(read, sizes.layers, dense), read.integer("moe_layer_freq", 1)
    blocks: list[tuple[Mlp, ...]] = [(gated(sizes.intermediate, act, bias=bias),)] * sizes.layers
    if first < sizes.layers:
        sparse = _sparse(read, router, act, bias)
        blocks = [sparse if i >= first and i % every == 0 else plain for i, plain in enumerate(blocks)]
    read.ignore(*ROUTING)
    return blocks


def _first_sparse(read: ConfigReader, layers: int, dense: int) -> int:
    """`first_k_dense_replace`, or what `mlp_layer_types` says instead."""
    first = read.integer("first_k_dense_replace", dense, least=0)
    if not (types := read.items("mlp_layer_types")):
        return first
    first = types.count("dense")
    if types != ["dense"] * first + ["sparse"] * (layers - first):
        raise read.refusal("mlp_layer_types", f"{layers} of dense and sparse, all dense ones first")
    return first


def read_groups(read: ConfigReader, count: int | None, kept: int | None) -> Groups:
    """`n_group` and `topk_group`, by the family's defaults.

    Raises:
        UnsupportedModelError: groups of unequal size, or too few of them for the experts of a token.
    """
    groups = Groups(read.integer("n_group", count), read.integer("topk_group", kept))
    experts = read.integer("n_routed_experts")
    if experts % groups.count or experts // groups.count < 2:
        raise read.refusal("n_group", f"a divisor of n_routed_experts={experts}, two experts in a group at least")
    if groups.kept > groups.count or read.integer("num_experts_per_tok") > experts // groups.count * groups.kept:
        raise read.refusal("topk_group", f"at most {groups.count} groups, with experts enough for a token")
    return groups


def _sparse(read: ConfigReader, router: Callable[[Experts], Router], act: str, bias: bool) -> tuple[Mlp, Mlp]:
    """Shared experts, which are one block, and chosen ones."""
    experts = Experts(
        count=read.integer("n_routed_experts"),
        chosen=read.integer("num_experts_per_tok"),
        size=read.integer("moe_intermediate_size"),
        normalized=read.flag("norm_topk_prob", False),
    )
    if experts.chosen > experts.count:
        raise read.refusal("num_experts_per_tok", f"at most {experts.count} experts")
    shared = gated(experts.size * read.integer("n_shared_experts"), act, bias=bias)
    return lambda weights, x: shared(weights / "shared_experts", x), mixture(experts, act, router(experts))
