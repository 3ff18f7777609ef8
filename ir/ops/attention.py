"""Attending over the pages of the KV cache; see `paged_cache.py`."""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.activation import softcap as soften
from warploom.ir.ops.alibi import core_distances, slopes
from warploom.ir.ops.elementwise import add, cast, div, exp, maximum, mul, select, sub
from warploom.ir.ops.norm import softmax
from warploom.ir.ops.paged_cache import (
    CACHE,
    PAGING,
    cache_type,
    check_cache,
    gather_tokens,
    generate_paging,
    read_pages,
)
from warploom.ir.ops.ragged import causal_mask, locate, visible_keys
from warploom.ir.ops.reduce import dot_general, reduce_max, reduce_sum
from warploom.ir.ops.shape import broadcast, concat, full, gather, reshape
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
MASKED = -1e30
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Attention(Op):
    """Causal attention of ragged queries over the pages of their sequences (grouped-query: Ainslie et al. 2023).

    Token t of sequence s is at position context_lens[s] - (query_start[s+1] - query_start[s]) + (t - query_start[s])
    and attends the keys j <= position, and only j > position - window if window > 0. Key j of sequence s lies in page
    page_table[s, j // page_size]. Tokens at or beyond query_start[S] are padding: their rows are zero.

    A score is q . k * scale; with softcap > 0 it becomes softcap * tanh(score / softcap) (Gemma 2); with alibi > 0,
    alibi * slope * (j - position) is added, with the slope of the head (see `alibi.py`). sinks [heads] are one more
    score per head in the softmax, of a key without a value (gpt-oss; Xiao et al. 2023).
    """

    name = "attention"
    operands = (
        activation("q"),
        Operand("kv", CACHE),
        Operand("page_table", I32),
        Operand("query_start", I32),
        Operand("context_lens", I32),
        Operand("sinks", FLOATS, optional=True),
    )
    attributes = (
        *PAGING,
        Attribute("scale", Kind.FLOAT),
        Attribute("window", Kind.INT),
        Attribute("softcap", Kind.FLOAT, default=0.0),
        Attribute("alibi", Kind.FLOAT, default=0.0),
    )

    def infer(
        self,
        q: TensorType,
        kv: TensorType,
        page_table: TensorType,
        query_start: TensorType,
        context_lens: TensorType,
        sinks: TensorType | None = None,
        **attrs: Any,
    ) -> TensorType:
        """The type of q [T, heads, head_dim]; page_table [S, P], query_start [S+1], context_lens [S], sinks [heads]."""
        if q.rank != 3 or page_table.rank != 2 or kv.rank != 5:
            raise IRError("wrong ranks", expected="q of 3, kv of 5, page_table of 2", found=f"{q}, {kv}, {page_table}")
        sequences = page_table.shape[0]
        starts, lens = tensor((sequences + 1,), DType.I32), tensor((sequences,), DType.I32)
        if not query_start.matches(starts) or not context_lens.matches(lens):
            raise IRError("wrong sequences", expected=f"{starts}, {lens}", found=f"{query_start}, {context_lens}")
        heads, kv_heads = q.shape[1], kv.shape[3]
        if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
            raise IRError("query heads are no multiple of kv heads", found=f"{heads} and {kv_heads}")
        if sinks is not None and not sinks.matches(tensor((heads,), sinks.dtype)):
            raise IRError("one sink per query head is needed", expected=f"[{heads}]", found=str(sinks))
        for name in ("softcap", "alibi"):
            if attrs[name] < 0:
                raise IRError(f"{name} must be positive, or 0 for none", found=str(attrs[name]))
        check_cache(kv, attrs["layer"], kv_heads, q.shape[2], attrs["page_size"], attrs["k_layout"])
        return q

    def evaluate(
        self,
        q: np.ndarray,
        kv: np.ndarray,
        page_table: np.ndarray,
        query_start: np.ndarray,
        context_lens: np.ndarray,
        sinks: np.ndarray | None = None,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
        scale: float,
        window: int,
        softcap: float = 0.0,
        alibi: float = 0.0,
    ) -> np.ndarray:
        """Sequence by sequence."""
        out = np.zeros_like(q)
        group = q.shape[1] // kv.shape[3]
        for s, context in enumerate(context_lens):
            begin, end = query_start[s], query_start[s + 1]
            if begin == end:
                continue
            used = page_table[s, : -(-int(context) // page_size)]
            pages = read_pages(kv, layer, q.shape[2], k_layout, used)
            keys, values = (_tokens(x, int(context), group).astype(q.dtype) for x in pages)
            scores = np.einsum("thd,hjd->htj", q[begin:end], keys) * q.dtype.type(scale)
            if softcap:
                scores = q.dtype.type(softcap) * np.tanh(scores * q.dtype.type(1 / softcap))
            position = np.arange(context - (end - begin), context)[:, None]
            if alibi:
                each = slopes(q.shape[1])[:, None, None] * q.dtype.type(alibi)
                scores += each * (np.arange(context) - position).astype(q.dtype)
            visible = visible_keys(np.arange(context), position, window)
            scores = np.where(visible, scores, MASKED)
            peak = scores.max(-1, keepdims=True)
            sink = np.full_like(peak, -np.inf) if sinks is None else np.broadcast_to(sinks[:, None, None], peak.shape)
            peak = np.maximum(peak, sink)
            weights = np.exp(scores - peak) * visible
            total = weights.sum(-1, keepdims=True) + np.exp(sink - peak)
            out[begin:end] = np.einsum("htj,hjd->thd", weights / total, values)
        return out

    def decompose(
        self,
        q: mlir.Value,
        kv: mlir.Value,
        page_table: mlir.Value,
        query_start: mlir.Value,
        context_lens: mlir.Value,
        sinks: mlir.Value | None = None,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
        scale: float,
        window: int,
        softcap: float = 0.0,
        alibi: float = 0.0,
    ) -> mlir.Value:
        """Every token sees the whole page table of its sequence under a mask."""
        tokens, heads, size = type_of(q).shape
        kv_heads = type_of(kv).shape[3]
        assert isinstance(heads, int)
        assert isinstance(kv_heads, int)
        sequence, position, live = locate(tokens, query_start, context_lens)
        width = type_of(page_table).shape[1]
        span = width * page_size
        pages = gather(page_table, sequence)  # [T, P]
        keys, values = (
            gather_tokens(kv, pages, layer, which, page_size, which == 0 and k_layout == "dim_major")
            for which in (0, 1)
        )  # [T, P * page_size, kv_heads, head_dim]
        group = heads // kv_heads
        grouped = reshape(q, shape=(tokens, kv_heads, group, size))
        scores = dot_general(grouped, keys, x_contract=(3,), y_contract=(3,), x_batch=(0, 1), y_batch=(0, 2))
        shape = (tokens, kv_heads, group, span)
        scores = mul(scores, full(shape=shape, value=scale, dtype="f32"))
        if softcap:
            scores = soften(scores, cap=softcap)
        if alibi:
            scores = add(scores, core_distances(position, type_of(scores), alibi))
        visible = causal_mask(position, live, span, window)
        wide = broadcast(visible, shape=shape, dims=(0, 3))
        masked = select(wide, scores, full(shape=shape, value=MASKED, dtype="f32"))
        weights = softmax(masked) if sinks is None else _softmax_with_sinks(masked, cast(sinks, dtype="f32"))
        mixed = dot_general(weights, values, x_contract=(3,), y_contract=(1,), x_batch=(0, 1), y_batch=(0, 2))
        out = reshape(mixed, shape=(tokens, heads, size))
        keep = broadcast(live, shape=(tokens, heads, size), dims=(0,))
        return select(keep, out, full(shape=(tokens, heads, size), value=0.0, dtype="f32"))

    def generate(self, choose: Chooser) -> Generated:
        """Two sequences, one mid-prompt, one decoding, and possibly a padding token."""
        heads, size, paging = generate_paging(choose)
        page_size = paging["page_size"]
        group, first, context = choose.integer(1, 3), choose.integer(1, 4), choose.integer(4, 2 * page_size)
        kv = choose.input(cache_type(heads, size, page_size, choose.choice([DType.F32, DType.BF16, DType.I8])), -2, 2)
        tokens = first + 1 + choose.integer(0, 1)
        table = choose.input(tensor((2, 2), DType.I32), 0, 3)
        starts, lens = (choose.input(tensor((1,), DType.I32), value, value) for value in (first, context))
        zero, end, other = (choose.input(tensor((1,), DType.I32), v, v) for v in (0, first + 1, page_size + 1))
        dtype = choose.choice([DType.F32, DType.BF16])
        operands = [choose.like(tensor((tokens, heads * group, size), dtype)), kv, table]
        operands += [concat(zero, starts, end, axis=0), concat(lens, other, axis=0)]
        operands += [choose.input(tensor((heads * group,)), -2, 2) for _ in range(choose.choice([0, 0, 1]))]
        attrs = {"scale": size**-0.5, "window": choose.choice([0, 0, 3]), "softcap": choose.choice([0.0, 0.0, 1.5])}
        return operands, paging | attrs | {"alibi": choose.choice([0.0, 0.0, 0.7])}


def _tokens(pages: np.ndarray, count: int, group: int) -> np.ndarray:
    """The first tokens of pages [P, kv_heads, page_size, head_dim], as [kv_heads * group, count, head_dim]."""
    heads, size = pages.shape[1], pages.shape[3]
    return np.repeat(pages.swapaxes(0, 1).reshape(heads, -1, size)[:, :count], group, 0)


def _softmax_with_sinks(scores: mlir.Value, sinks: mlir.Value) -> mlir.Value:
    """Weights [T, kv_heads, group, keys] of scores beside one sink [kv_heads * group] per head."""
    tokens, kv_heads, group, _ = shape = type_of(scores).shape
    each = (tokens, kv_heads, group)
    sink = broadcast(reshape(sinks, shape=(kv_heads, group)), shape=each, dims=(1, 2))
    peak = maximum(reduce_max(scores, axis=3), sink)
    weights = exp(sub(scores, broadcast(peak, shape=shape, dims=(0, 1, 2))))
    total = add(reduce_sum(weights, axis=3), exp(sub(sink, peak)))
    return div(weights, broadcast(total, shape=shape, dims=(0, 1, 2)))


attention = Attention()
