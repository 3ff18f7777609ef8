"""Routers that choose by a bias per expert, or within groups (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437)."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.dense import dense
from warploom.frontend.models.experts import Experts, Router, route
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.ops.group_routing import route_in_groups
from warploom.ir.ops.shape import reshape
from warploom.ir.types import DType


@dataclass(frozen=True)
class Groups:
    """Groups of experts, as many of each; a token's experts are those of its `kept` best groups."""

    count: int
    kept: int


ONE = Groups(1, 1)


def softmax_router(experts: Experts, groups: Groups, scale: float) -> Router:
    """Shares are parts of the softmax over all experts, or of the chosen, times `scale`.

    A group is as good as its best expert (V2).
    """

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        logits = dense(weights / "gate", as_dtype(x, DType.F32), experts.count)
        if groups.kept == groups.count and scale == 1.0:
            return route(experts, logits)
        shares, chosen = route_in_groups(
            logits,
            k=experts.chosen,
            score="softmax",
            groups=groups.count,
            kept=groups.kept,
            best=1,
            normalized=int(experts.normalized),
            scale=scale,
        )
        return shares, chosen

    return router


def biased_router(
    experts: Experts,
    groups: Groups = ONE,
    scale: float = 1.0,
    *,
    score: str = "sigmoid",
    bias: str = "gate.e_score_correction_bias",
    bias_shape: tuple[int, ...] = (),
) -> Router:
    """Experts are chosen by their scores plus a bias each; a group is as good as its best two (V3).

    Args:
        experts: of the layer.
        groups: of experts.
        scale: of shares.
        score: of logits, sigmoid or softmax.
        bias: the tensor in the module.
        bias_shape: of that tensor, where it is not [count].
    """

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        biases = weights(bias, bias_shape or (experts.count,))
        if bias_shape:
            biases = reshape(biases, shape=(experts.count,))
        shares, chosen = route_in_groups(
            dense(weights / "gate", as_dtype(x, DType.F32), experts.count),
            as_dtype(biases, DType.F32),
            k=experts.chosen,
            score=score,
            groups=groups.count,
            kept=groups.kept,
            best=2,
            normalized=int(experts.normalized),
            scale=scale,
        )
        return shares, chosen

    return router
