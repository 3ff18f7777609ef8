"""The paged KV cache as a value: writing a step's keys and values, and attending over pages.

`kv` is [layers, C, 2, kv_heads, page_size * head_dim]: C pages, index 2 is 0 for keys and 1 for values. A value block
is [page_size, head_dim]; a key block is that (`token_major`) or its transpose (`dim_major`, so that consecutive
numbers belong to consecutive tokens). Paging follows Kwon et al., SOSP 2023.
"""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike, equal, product
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.activation import softcap as soften
from warploom.ir.ops.elementwise import (
    add,
    bit_and,
    cast,
    compare,
    div,
    exp,
    maximum,
    minimum,
    mul,
    select,
    sub,
)
from warploom.ir.ops.norm import softmax
from warploom.ir.ops.reduce import dot_general, reduce_max, reduce_sum
from warploom.ir.ops.shape import (
    broadcast,
    concat,
    full,
    gather,
    iota,
    reshape,
    scatter,
    slice_axis,
    transpose,
)
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

F32, I32 = frozenset({DType.F32}), frozenset({DType.I32})
CACHE = frozenset({DType.F32, DType.BF16, DType.F8})
F8_MAX = 448.0
KEY_LAYOUTS = ("token_major", "dim_major")
MASKED = -1e30
PAGING = (Attribute("layer", Kind.INT), Attribute("page_size", Kind.INT), Attribute("k_layout", Kind.STR))
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class KvWrite(Op):
    """kv with the keys and values of this step's tokens written at their slots, in one layer.

    slot = page * page_size + offset within the page; a negative slot writes nothing; slots are distinct. A cache of f8
    holds the nearest numbers that it can, up to 448 and without a scale: an E4M3 number has its own exponent.
    """

    name = "kv_write"
    operands = (Operand("kv", CACHE), activation("k"), activation("v"), Operand("slots", I32))
    attributes = PAGING

    def infer(
        self,
        kv: TensorType,
        k: TensorType,
        v: TensorType,
        slots: TensorType,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> TensorType:
        """The type of kv; k and v [T, kv_heads, head_dim], slots [T]."""
        if k.rank != 3 or not v.matches(k) or not slots.matches(tensor((k.shape[0],), DType.I32)):
            raise IRError("k, v [T, kv_heads, head_dim] and slots [T] disagree", found=f"{k}, {v}, {slots}")
        _check_cache(kv, layer, k.shape[1], k.shape[2], page_size, k_layout)
        return kv

    def evaluate(
        self,
        kv: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        slots: np.ndarray,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> np.ndarray:
        """A copy with assigned rows."""
        result = kv.copy()
        keys, values = view_pages(result, layer, k.shape[2], k_layout)
        kept = slots >= 0
        page, offset = slots[kept] // page_size, slots[kept] % page_size
        limit = F8_MAX if kv.dtype == DType.F8.numpy else np.inf
        keys[page, :, offset] = np.clip(k[kept], -limit, limit)
        values[page, :, offset] = np.clip(v[kept], -limit, limit)
        return result

    def decompose(
        self,
        kv: mlir.Value,
        k: mlir.Value,
        v: mlir.Value,
        slots: mlir.Value,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> mlir.Value:
        """Each block as rows of tokens, scattered to, put back."""
        layers, count, _, heads, _ = type_of(kv).shape
        size = type_of(k).shape[2]
        parts = []
        for which, new in ((0, k), (1, v)):
            transposed = which == 0 and k_layout == "dim_major"
            tokens = _token_rows(kv, layer, which, page_size, transposed)  # [C * page_size, heads, head_dim]
            written = scatter(tokens, slots, _narrowed(new, type_of(kv).dtype))
            paged = reshape(written, shape=(count, page_size, heads, size))
            order = (0, 2, 3, 1) if transposed else (0, 2, 1, 3)
            parts.append(reshape(transpose(paged, permutation=order), shape=(1, count, 1, heads, page_size * size)))
        middle = concat(*parts, axis=2)
        assert isinstance(layers, int)
        before = [slice_axis(kv, axis=0, start=0, stop=layer)] if layer else []
        after = [slice_axis(kv, axis=0, start=layer + 1, stop=layers)] if layer + 1 < layers else []
        return concat(*before, middle, *after, axis=0)

    def generate(self, choose: Chooser) -> Generated:
        """One or two tokens at distinct slots of a two-layer cache."""
        heads, size, attrs = _generate_paging(choose)
        kv = choose.like(_cache_type(heads, size, attrs["page_size"], choose.choice([DType.F32, DType.BF16])))
        count = choose.integer(1, 2)
        k, v = (choose.like(tensor((count, heads, size))) for _ in range(2))
        slots = concat(*(choose.input(tensor((1,), DType.I32), 2 * i - 1, 2 * i) for i in range(count)), axis=0)
        return [kv, k, v, slots], attrs


class Attention(Op):
    """Causal attention of ragged queries over the pages of their sequences (grouped-query: Ainslie et al. 2023).

    Token t of sequence s is at position context_lens[s] - (query_start[s+1] - query_start[s]) + (t - query_start[s])
    and attends the keys j <= position, and only j > position - window if window > 0. Key j of sequence s lies in page
    page_table[s, j // page_size]. Tokens at or beyond query_start[S] are padding: their rows are zero.

    A score is q . k * scale; with softcap > 0 it becomes softcap * tanh(score / softcap) (Gemma 2). sinks [heads] are
    one more score per head in the softmax, of a key without a value (gpt-oss; Xiao et al. 2023).
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
        if attrs["softcap"] < 0:
            raise IRError("softcap must be positive, or 0 for none", found=str(attrs["softcap"]))
        _check_cache(kv, attrs["layer"], kv_heads, q.shape[2], attrs["page_size"], attrs["k_layout"])
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
    ) -> np.ndarray:
        """Sequence by sequence."""
        pages = view_pages(kv, layer, q.shape[2], k_layout)
        out = np.zeros_like(q)
        group = q.shape[1] // kv.shape[3]
        for s, context in enumerate(context_lens):
            begin, end = query_start[s], query_start[s + 1]
            if begin == end:
                continue
            used = page_table[s, : -(-int(context) // page_size)]
            keys, values = (_tokens(x[used], int(context), group).astype(q.dtype) for x in pages)
            scores = np.einsum("thd,hjd->htj", q[begin:end], keys) * q.dtype.type(scale)
            if softcap:
                scores = q.dtype.type(softcap) * np.tanh(scores * q.dtype.type(1 / softcap))
            position = np.arange(context - (end - begin), context)[:, None]
            visible = _visible(np.arange(context), position, window)
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
    ) -> mlir.Value:
        """Every token sees the whole page table of its sequence under a mask."""
        tokens, heads, size = type_of(q).shape
        kv_heads = type_of(kv).shape[3]
        assert isinstance(heads, int)
        assert isinstance(kv_heads, int)
        sequence, position, live = _locate(tokens, query_start, context_lens)
        width = type_of(page_table).shape[1]
        span = width * page_size
        pages = gather(page_table, sequence)  # [T, P]
        keys, values = (
            _gather_tokens(kv, pages, layer, which, page_size, which == 0 and k_layout == "dim_major")
            for which in (0, 1)
        )  # [T, P * page_size, kv_heads, head_dim]
        group = heads // kv_heads
        grouped = reshape(q, shape=(tokens, kv_heads, group, size))
        scores = dot_general(grouped, keys, x_contract=(3,), y_contract=(3,), x_batch=(0, 1), y_batch=(0, 2))
        shape = (tokens, kv_heads, group, span)
        scores = mul(scores, full(shape=shape, value=scale, dtype="f32"))
        if softcap:
            scores = soften(scores, cap=softcap)
        visible = _mask(position, live, span, window)
        wide = broadcast(visible, shape=shape, dims=(0, 3))
        masked = select(wide, scores, full(shape=shape, value=MASKED, dtype="f32"))
        weights = softmax(masked) if sinks is None else _softmax_with_sinks(masked, cast(sinks, dtype="f32"))
        mixed = dot_general(weights, values, x_contract=(3,), y_contract=(1,), x_batch=(0, 1), y_batch=(0, 2))
        out = reshape(mixed, shape=(tokens, heads, size))
        keep = broadcast(live, shape=(tokens, heads, size), dims=(0,))
        return select(keep, out, full(shape=(tokens, heads, size), value=0.0, dtype="f32"))

    def generate(self, choose: Chooser) -> Generated:
        """Two sequences, one mid-prompt, one decoding, and possibly a padding token."""
        heads, size, paging = _generate_paging(choose)
        page_size = paging["page_size"]
        group, first, context = choose.integer(1, 3), choose.integer(1, 4), choose.integer(4, 2 * page_size)
        kv = choose.input(_cache_type(heads, size, page_size, choose.choice([DType.F32, DType.BF16])), -2, 2)
        tokens = first + 1 + choose.integer(0, 1)
        table = choose.input(tensor((2, 2), DType.I32), 0, 3)
        starts, lens = (choose.input(tensor((1,), DType.I32), value, value) for value in (first, context))
        zero, end, other = (choose.input(tensor((1,), DType.I32), v, v) for v in (0, first + 1, page_size + 1))
        dtype = choose.choice([DType.F32, DType.BF16])
        operands = [choose.like(tensor((tokens, heads * group, size), dtype)), kv, table]
        operands += [concat(zero, starts, end, axis=0), concat(lens, other, axis=0)]
        operands += [choose.input(tensor((heads * group,)), -2, 2) for _ in range(choose.choice([0, 0, 1]))]
        attrs = {"scale": size**-0.5, "window": choose.choice([0, 0, 3]), "softcap": choose.choice([0.0, 0.0, 1.5])}
        return operands, paging | attrs


def view_pages(kv: np.ndarray, layer: int, head_dim: int, k_layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of one layer as writable views [C, kv_heads, page_size, head_dim], whatever the key layout."""
    count, _, heads, block = kv.shape[1:]
    keys, values = kv[layer, :, 0], kv[layer, :, 1]
    token_major = (count, heads, block // head_dim, head_dim)
    if k_layout == "token_major":
        return keys.reshape(token_major), values.reshape(token_major)
    return keys.reshape(count, heads, head_dim, block // head_dim).swapaxes(-1, -2), values.reshape(token_major)


def _tokens(pages: np.ndarray, count: int, group: int) -> np.ndarray:
    """The first tokens of pages [P, kv_heads, page_size, head_dim], as [kv_heads * group, count, head_dim]."""
    heads, size = pages.shape[1], pages.shape[3]
    return np.repeat(pages.swapaxes(0, 1).reshape(heads, -1, size)[:, :count], group, 0)


def _visible(key: np.ndarray, position: np.ndarray, window: int) -> np.ndarray:
    causal = key <= position
    return causal & (key > position - window) if window else causal


def _locate(tokens: DimLike, query_start: mlir.Value, context_lens: mlir.Value) -> tuple[mlir.Value, ...]:
    """Per token: its sequence, its position, and whether it is no padding."""
    sequences = type_of(context_lens).shape[0]
    matrix = (tokens, sequences)
    ends = gather(query_start, add(iota(shape=(sequences,), axis=0), full(shape=(sequences,), value=1.0, dtype="i32")))
    past = compare(iota(shape=matrix, axis=0), broadcast(ends, shape=matrix, dims=(1,)), direction="ge")
    sequence = reduce_sum(cast(past, dtype="i32"), axis=1)  # sequences that end before the token
    last = gather(query_start, add(sequence, full(shape=(tokens,), value=1.0, dtype="i32")))
    from_end = sub(last, iota(shape=(tokens,), axis=0))
    position = sub(gather(context_lens, sequence), from_end)
    live = compare(from_end, full(shape=(tokens,), value=0.0, dtype="i32"), direction="gt")
    return sequence, position, live


def _mask(position: mlir.Value, live: mlir.Value, span: DimLike, window: int) -> mlir.Value:
    """[T, span]: which keys a token attends."""
    tokens = type_of(position).shape[0]
    matrix = (tokens, span)
    key, at = iota(shape=matrix, axis=1), broadcast(position, shape=matrix, dims=(0,))
    visible: mlir.Value = compare(key, at, direction="le")
    if window:
        edge = sub(at, full(shape=matrix, value=float(window), dtype="i32"))
        visible = bit_and(visible, compare(key, edge, direction="gt"))
    return visible


def _softmax_with_sinks(scores: mlir.Value, sinks: mlir.Value) -> mlir.Value:
    """Weights [T, kv_heads, group, keys] of scores beside one sink [kv_heads * group] per head."""
    tokens, kv_heads, group, _ = shape = type_of(scores).shape
    each = (tokens, kv_heads, group)
    sink = broadcast(reshape(sinks, shape=(kv_heads, group)), shape=each, dims=(1, 2))
    peak = maximum(reduce_max(scores, axis=3), sink)
    weights = exp(sub(scores, broadcast(peak, shape=shape, dims=(0, 1, 2))))
    total = add(reduce_sum(weights, axis=3), exp(sub(sink, peak)))
    return div(weights, broadcast(total, shape=shape, dims=(0, 1, 2)))


def _narrowed(x: mlir.Value, dtype: DType) -> mlir.Value:
    """x as a cache has it."""
    if dtype is DType.F8:
        type_ = type_of(x)
        low, high = (full(shape=type_.shape, value=v, dtype=type_.dtype.value) for v in (-F8_MAX, F8_MAX))
        x = minimum(maximum(x, low), high)
    result: mlir.Value = cast(x, dtype=dtype.value)
    return result


def _token_rows(kv: mlir.Value, layer: int, which: int, page_size: int, transposed: bool) -> mlir.Value:
    """Keys (0) or values (1) of one layer as [C * page_size, kv_heads, head_dim]."""
    _, count, _, heads, block = type_of(kv).shape
    assert isinstance(block, int)
    size = block // page_size
    one = slice_axis(slice_axis(kv, axis=0, start=layer, stop=layer + 1), axis=2, start=which, stop=which + 1)
    inner = (size, page_size) if transposed else (page_size, size)
    blocks = reshape(one, shape=(count, heads, *inner))
    order = (0, 3, 1, 2) if transposed else (0, 2, 1, 3)
    return reshape(transpose(blocks, permutation=order), shape=(count * page_size, heads, size))


def _gather_tokens(
    kv: mlir.Value, pages: mlir.Value, layer: int, which: int, page_size: int, transposed: bool
) -> mlir.Value:
    """[T, P * page_size, kv_heads, head_dim] of every token's page list [T, P], as f32."""
    rows = _token_rows(kv, layer, which, page_size, transposed)
    _, heads, size = type_of(rows).shape
    tokens, width = type_of(pages).shape
    grid = (tokens, width, page_size)
    first = mul(pages, full(shape=(tokens, width), value=float(page_size), dtype="i32"))
    index = add(broadcast(first, shape=grid, dims=(0, 1)), iota(shape=grid, axis=2))
    flat = reshape(index, shape=(product(grid),))
    return cast(reshape(gather(rows, flat), shape=(tokens, width * page_size, heads, size)), dtype="f32")


def _check_cache(kv: TensorType, layer: int, heads: DimLike, size: DimLike, page_size: int, k_layout: str) -> None:
    if k_layout not in KEY_LAYOUTS:
        raise IRError("unknown key layout", expected=", ".join(KEY_LAYOUTS), found=k_layout)
    fits = kv.rank == 5 and isinstance(kv.shape[0], int) and 0 <= layer < kv.shape[0] and kv.shape[2] == 2
    if not fits or not equal(kv.shape[3], heads) or not equal(kv.shape[4], page_size * size):
        raise IRError(
            f"kv does not fit layer {layer}",
            expected=f"[layers, C, 2, {heads}, {page_size * size}]",
            found=str(kv),
        )


def _cache_type(heads: int, size: int, page_size: int, dtype: DType) -> TensorType:
    return tensor((2, 4, 2, heads, page_size * size), dtype)


def _generate_paging(choose: Chooser) -> tuple[int, int, dict[str, Any]]:
    heads, size = choose.integer(1, 2), choose.choice([16, 64])
    layer, k_layout = choose.integer(0, 1), choose.choice(list(KEY_LAYOUTS))
    return heads, size, {"layer": layer, "page_size": 16, "k_layout": k_layout}


kv_write, attention = KvWrite(), Attention()
