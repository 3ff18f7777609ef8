"""Routing that limits a token to the experts of a few groups (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437)."""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import add, cast, compare, div, logistic, mul, select
from warploom.ir.ops.norm import along_columns, along_rows, softmax
from warploom.ir.ops.reduce import reduce_max, reduce_sum, top_k
from warploom.ir.ops.shape import broadcast, full, iota, reshape
from warploom.ir.types import DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]
SCORES = ("softmax", "sigmoid")
NEVER = -1e30  # below all scores
SMALL = 1e-20  # added to sums that are divided by


class RouteInGroups(Op):
    """The k experts with the largest scores, plus a bias each if there is one, among those of a token's best groups.

    Scores are softmax or sigmoid of the logits. Experts are cut into `groups` of equal size, in order; a group is as
    good as its `best` best experts together, and `kept` groups are a token's. Shares are scores without bias,
    `normalized` 1 by their sum, times `scale`. The lowest index of equal ones comes first.
    """

    name = "route_in_groups"
    operands = (activation("logits"), Operand("bias", frozenset({DType.F32}), optional=True))
    attributes = (
        Attribute("k", Kind.INT),
        Attribute("score", Kind.STR),
        Attribute("groups", Kind.INT),
        Attribute("kept", Kind.INT),
        Attribute("best", Kind.INT),
        Attribute("normalized", Kind.INT),
        Attribute("scale", Kind.FLOAT),
    )
    results = ("shares", "experts")

    def infer(self, logits: TensorType, bias: TensorType | None = None, **a: Any) -> tuple[TensorType, TensorType]:
        """F32 [T, k] and i32 [T, k] of logits [T, E] and bias [E]."""
        count = logits.shape[1] if logits.rank == 2 else None
        if not isinstance(count, int) or a["groups"] < 1 or count % a["groups"]:
            raise IRError("logits are [T, E], E static and a multiple of the groups", found=f"{logits}, {a['groups']}")
        size = count // a["groups"]
        if not 1 <= a["kept"] <= a["groups"] or not 1 <= a["best"] <= size or not 1 <= a["k"] <= size * a["kept"]:
            raise IRError(f"groups of {size} experts are too few or too small", found=str(a))
        if a["score"] not in SCORES or a["normalized"] not in (0, 1):
            raise IRError("unknown scores", expected=f"{', '.join(SCORES)}; normalized 0 or 1", found=str(a))
        if bias is not None and not bias.matches(tensor((count,))):
            raise IRError("one bias per expert is needed", expected=f"[{count}]", found=str(bias))
        shape = (logits.shape[0], a["k"])
        return tensor(shape), tensor(shape, DType.I32)

    def evaluate(
        self,
        logits: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        k: int,
        score: str,
        groups: int,
        kept: int,
        best: int,
        normalized: int,
        scale: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """In the dtype of the logits."""
        scores = softmax.evaluate(logits) if score == "softmax" else logistic.evaluate(logits)
        preferred = scores if bias is None else scores + bias.astype(scores.dtype)
        each = preferred.reshape(len(logits), groups, -1)
        _, chosen = top_k.evaluate(np.sort(each, 2)[..., -best:].sum(2), k=kept)
        outside = np.ones(each.shape, bool)
        np.put_along_axis(outside, chosen[..., None], False, 1)
        _, experts = top_k.evaluate(np.where(outside, NEVER, each).reshape(logits.shape), k=k)
        shares = np.take_along_axis(scores, experts, 1)
        if normalized:
            shares = shares / (shares.sum(1, keepdims=True) + scores.dtype.type(SMALL))
        return shares * scores.dtype.type(scale), experts

    def decompose(
        self,
        logits: mlir.Value,
        bias: mlir.Value | None = None,
        *,
        k: int,
        score: str,
        groups: int,
        kept: int,
        best: int,
        normalized: int,
        scale: float,
    ) -> tuple[mlir.Value, mlir.Value]:
        """Masks of the chosen, from comparisons with their indices."""
        scores = softmax(logits) if score == "softmax" else logistic(logits)
        preferred = scores if bias is None else add(scores, along_columns(bias, scores))
        if kept < groups:
            preferred = _within_groups(preferred, groups, kept, best)
        _, experts = top_k(preferred, k=k)
        same = _same(experts, type_of(scores).shape[1])
        each = broadcast(scores, shape=type_of(same).shape, dims=(0, 2))
        shares = reduce_sum(select(same, each, _all(type_of(each), 0.0)), axis=2)
        if normalized:
            total = reduce_sum(shares, axis=1)
            shares = div(shares, along_rows(add(total, _all(type_of(total), SMALL)), shares))
        return shares if scale == 1.0 else mul(shares, _all(type_of(shares), scale)), experts

    def generate(self, choose: Chooser) -> Generated:
        """Up to three groups of up to three experts."""
        groups, size = choose.integer(1, 3), choose.integer(1, 3)
        kept = choose.integer(1, groups)
        logits = choose.like(tensor((choose.symbol(), groups * size), choose.choice([DType.F32, DType.BF16])))
        bias = [choose.input(tensor((groups * size,)), -1, 1)] if choose.integer(0, 1) else []
        attrs: dict[str, AttrValue] = {
            "k": choose.integer(1, min(3, kept * size)),
            "score": choose.choice(list(SCORES)),
            "groups": groups,
            "kept": kept,
            "best": choose.integer(1, min(2, size)),
            "normalized": choose.integer(0, 1),
            "scale": choose.choice([1.0, 2.5]),
        }
        return [logits, *bias], attrs


def _within_groups(preferred: mlir.Value, groups: int, kept: int, best: int) -> mlir.Value:
    """preferred [T, E], but NEVER where the group is none of the best."""
    tokens, count = type_of(preferred).shape
    assert isinstance(count, int)
    each = reshape(preferred, shape=(tokens, groups, count // groups))
    quality = reduce_max(each, axis=2) if best == 1 else reduce_sum(top_k(each, k=best)[0], axis=2)
    _, chosen = top_k(quality, k=kept)
    hits = reduce_max(cast(_same(chosen, groups), dtype="i32"), axis=1)  # [T, groups]
    inside = compare(hits, _all(type_of(hits), 0.0), direction="gt")
    type_ = type_of(each)
    limited = select(broadcast(inside, shape=type_.shape, dims=(0, 1)), each, _all(type_, NEVER))
    result: mlir.Value = reshape(limited, shape=(tokens, count))
    return result


def _same(chosen: mlir.Value, count: DimLike) -> mlir.Value:
    """Whether chosen[t, j] is i, for i up to `count`: [T, J, count]."""
    shape = (*type_of(chosen).shape, count)
    wide = broadcast(chosen, shape=shape, dims=(0, 1))
    result: mlir.Value = compare(wide, iota(shape=shape, axis=2), direction="eq")
    return result


def _all(type_: TensorType, value: float) -> mlir.Value:
    result: mlir.Value = full(shape=type_.shape, value=value, dtype=type_.dtype.value)
    return result


route_in_groups = RouteInGroups()
