"""Mixture of experts: a router gives each token to a few of many feed-forward blocks (Shazeer et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.dense import dense, split, width
from warploom.frontend.models.mlp import Mlp, gate_with, gated
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.elementwise import add, logistic, mul
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.norm import along_rows
from warploom.ir.ops.routing import combine_experts, route_experts
from warploom.ir.ops.shape import reshape
from warploom.ir.types import type_of

# The module's weights and x [T, hidden] -> shares f32 and experts i32, [T, chosen]
Router = Callable[[Weights, mlir.Value], tuple[mlir.Value, mlir.Value]]


@dataclass(frozen=True)
class Experts:
    """The feed-forward blocks of a layer.

    Attributes:
        count: how many there are.
        chosen: of each token.
        size: inner columns of one.
        normalized: shares of the chosen sum to 1; else they are their parts of the softmax over all.
        names: of gate, up and down of one.
    """

    count: int
    chosen: int
    size: int
    normalized: bool = True
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


# The module's weights and hidden -> gate and up of all experts [count * 2 * size, hidden], down [count * hidden, size]
Matrices = Callable[[Weights, Experts, int], tuple[mlir.Value, mlir.Value]]


def read_experts(read: ConfigReader, size: int, *, normalized: bool | None = None) -> Experts:
    """Read the counts, and `norm_topk_prob` (false by default) unless the family says whether shares are normalized.

    Raises:
        UnsupportedModelError: a count is missing, or more experts are chosen than there are.
    """
    count = read.integer("num_experts" if "num_experts" in read else "num_local_experts")
    chosen = read.integer("num_experts_per_tok")
    if chosen > count:
        raise read.refusal("num_experts_per_tok", f"at most {count} experts")
    read.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # of training
    shares = read.flag("norm_topk_prob", False) if normalized is None else normalized
    return Experts(count, chosen, size, shares)


def apart(weights: Weights, experts: Experts, hidden: int) -> tuple[mlir.Value, mlir.Value]:
    """Matrices of experts that are modules of their own."""
    gate_name, up_name, down_name = experts.names
    each, inside = f"{{0..{experts.count - 1}}}", weights / "experts"
    first = inside.stacked(f"{each}.{{{gate_name},{up_name}}}.weight", (experts.size, hidden))
    return first, inside.stacked(f"{each}.{down_name}.weight", (hidden, experts.size))


def mixture(experts: Experts, act: str = "silu", router: Router | None = None, *, matrices: Matrices = apart) -> Mlp:
    """sum of share * expert(x) over the experts that the router (default: `route`) chooses, each a `gated` block."""

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        tokens, hidden = type_of(x).shape[0], width(x)
        if router is None:
            shares, chosen = route(experts, dense(weights / "gate", x, experts.count))
        else:
            shares, chosen = router(weights, x)
        first, second = matrices(weights, experts, hidden)
        both = expert_linear(reshape(x, shape=(tokens, 1, hidden)), chosen, first, n=2 * experts.size)
        gated_ = gate_with(act, *split(both, (experts.size, experts.size)))
        result: mlir.Value = combine_experts(expert_linear(gated_, chosen, second, n=hidden), shares)
        return result

    return mlp


def with_shared(experts: Experts, size: int, act: str = "silu") -> Mlp:
    """`mixture` and a block for every token, by a gate of its own (Qwen 2 MoE): + sigmoid(gate(x)) * shared(x)."""
    routed, shared = mixture(experts, act), gated(size, act)

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        gate = logistic(dense(weights / "shared_expert_gate", x, 1))
        own = shared(weights / "shared_expert", x)
        share = along_rows(reshape(gate, shape=type_of(x).shape[:1]), own)
        return add(routed(weights, x), mul(share, own))

    return mlp


def route(experts: Experts, logits: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
    """Shares f32 [T, chosen] and indices i32 [T, chosen] of the experts with the largest logits [T, count]."""
    shares, chosen = route_experts(logits, k=experts.chosen, normalized=int(experts.normalized))
    return shares, chosen
