"""Routers that limit a token to the experts of a few groups (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437)."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.dense import dense
from warploom.frontend.models.experts import Experts, Router, route
from warploom.frontend.models.weights import Weights
from warploom.ir.dims import DimLike
from warploom.ir.ops.elementwise import add, as_dtype, cast, compare, div, logistic, mul, select
from warploom.ir.ops.norm import along_columns, along_rows, softmax
from warploom.ir.ops.reduce import reduce_max, reduce_sum, top_k
from warploom.ir.ops.shape import broadcast, full, iota, reshape
from warploom.ir.types import DType, type_of

NEVER = -1e30  # below all scores


@dataclass(frozen=True)
class Groups:
    """Groups of experts, as many of each; a token's experts are those of its `chosen` best groups."""

    count: int
    chosen: int


def softmax_router(experts: Experts, groups: Groups | None, scale: float) -> Router:
    """Shares are parts of the softmax over all experts, times `scale`; a group is as good as its best expert (V2)."""

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        logits = dense(weights, as_dtype(x, DType.F32), experts.count)
        if groups is None:
            shares, chosen = route(experts, logits)
        else:
            scores = softmax(logits)
            best = reduce_max(_by_group(scores, groups), axis=2)
            shares, chosen = top_k(_within(scores, best, groups, 0.0), k=experts.chosen)
        return _scaled(shares, scale), chosen

    return router


def sigmoid_router(experts: Experts, groups: Groups | None, scale: float) -> Router:
    """Sigmoids of logits, chosen by their sums with a bias per expert; a group is as good as its best two (V3)."""

    def router(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        scores = logistic(dense(weights, as_dtype(x, DType.F32), experts.count))
        bias = as_dtype(weights("e_score_correction_bias", (experts.count,)), DType.F32)
        preferred = add(scores, along_columns(bias, scores))
        if groups is not None:
            two, _ = top_k(_by_group(preferred, groups), k=2)
            preferred = _within(preferred, reduce_sum(two, axis=2), groups, NEVER)
        _, chosen = top_k(preferred, k=experts.chosen)
        shares = _picked(scores, chosen)
        if experts.normalized:
            total = reduce_sum(shares, axis=1)
            total = add(total, full(shape=type_of(total).shape, value=1e-20, dtype="f32"))
            shares = div(shares, along_rows(total, shares))
        return _scaled(shares, scale), chosen

    return router


def _by_group(scores: mlir.Value, groups: Groups) -> mlir.Value:
    """[T, experts] as [T, groups, experts of a group]."""
    tokens, count = type_of(scores).shape
    assert isinstance(count, int)
    result: mlir.Value = reshape(scores, shape=(tokens, groups.count, count // groups.count))
    return result


def _within(scores: mlir.Value, of_group: mlir.Value, groups: Groups, outside: float) -> mlir.Value:
    """scores [T, experts], but `outside` where the group, of scores [T, groups], is none of the best."""
    _, best = top_k(of_group, k=groups.chosen)
    each = _by_group(scores, groups)
    tokens, count, _ = shape = type_of(each).shape
    hits = reduce_max(cast(_same(best, count), dtype="i32"), axis=1)  # [T, groups]
    kept = compare(hits, full(shape=(tokens, count), value=0.0, dtype="i32"), direction="gt")
    limited = select(broadcast(kept, shape=shape, dims=(0, 1)), each, full(shape=shape, value=outside, dtype="f32"))
    result: mlir.Value = reshape(limited, shape=type_of(scores).shape)
    return result


def _picked(scores: mlir.Value, chosen: mlir.Value) -> mlir.Value:
    """scores[t, chosen[t, j]] of scores [T, experts], as [T, J]."""
    same = _same(chosen, type_of(scores).shape[1])
    shape = type_of(same).shape
    each = broadcast(scores, shape=shape, dims=(0, 2))
    result: mlir.Value = reduce_sum(select(same, each, full(shape=shape, value=0.0, dtype="f32")), axis=2)
    return result


def _same(chosen: mlir.Value, count: DimLike) -> mlir.Value:
    """Whether chosen[t, j] is i, for i up to `count`: [T, J, count]."""
    shape = (*type_of(chosen).shape, count)
    wide = broadcast(chosen, shape=shape, dims=(0, 1))
    result: mlir.Value = compare(wide, iota(shape=shape, axis=2), direction="eq")
    return result


def _scaled(shares: mlir.Value, scale: float) -> mlir.Value:
    if scale == 1.0:
        return shares
    result: mlir.Value = mul(shares, full(shape=type_of(shares).shape, value=scale, dtype="f32"))
    return result
