"""Routers that limit a token to the experts of a few groups (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437)."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.dense import dense
from warploom.frontend.models.experts import Experts, Router, route
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.ops.group_routing import route_in_groups
from warploom.ir.types import DType


@dataclass(frozen=True)
class Groups:
    """Groups of experts, as many of each; a token's experts are those of its `kept` best groups."""

    count: int
    kept: int


ONE = Groups(1, 1)


def softmax_router(experts: Experts, groups: Groups, scale: float) -> Router:
    """Shares are parts of the softmax over all experts, times `scale`; a group is as good as its best expert (V2)."""

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        logits = dense(weights, as_dtype(x, DType.F32), experts.count)
        if groups.kept == groups.count and scale == 1.0:
            return route(experts, logits)
        shares, chosen = route_in_groups(
            logits,
            k=experts.chosen,
            score="softmax",
            groups=groups.count,
            kept=groups.kept,
            best=1,
            normalized=0,
            scale=scale,
        )
        return shares, chosen

    return router


def sigmoid_router(experts: Experts, groups: Groups, scale: float) -> Router:
    """Sigmoids of logits, chosen by their sums with a bias per expert; a group is as good as its best two (V3)."""

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        shares, chosen = route_in_groups(
            dense(weights, as_dtype(x, DType.F32), experts.count),
            as_dtype(weights("e_score_correction_bias", (experts.count,)), DType.F32),
            k=experts.chosen,
            score="sigmoid",
            groups=groups.count,
            kept=groups.kept,
            best=2,
            normalized=int(experts.normalized),
            scale=scale,
        )
        return shares, chosen

    return router
