"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) over one row per token that all heads share.

The row of a token is its latent [L], of which keys and values of every head are linear maps, then its rotated key [R].
With the map of the keys absorbed into the queries, and that of the values into what follows, no head's keys or values
are ever computed: a query of L + R numbers meets the whole row, and the value is the row's first L numbers.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import mul, select
from warploom.ir.ops.latent_rows import check_latent_cache, core_rows, core_written, read_rows, row_size, write_rows
from warploom.ir.ops.norm import softmax
from warploom.ir.ops.paged_cache import CACHE
from warploom.ir.ops.ragged import causal_mask, locate, visible_keys
from warploom.ir.ops.reduce import dot_general
from warploom.ir.ops.shape import broadcast, concat, full, gather, slice_axis
from warploom.ir.types import DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
PAGING = (Attribute("layer", Kind.INT), Attribute("page_size", Kind.INT))
MASKED = -1e30
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class LatentWrite(Op):
    """kv with the latents and rotated keys of this step's tokens written at their slots, in one layer.

    A cache of 8 bits holds runs of a row on powers of two of their own (see `latent_rows.py`).

    slot = page * page_size + offset within the page; a negative slot writes nothing; slots are distinct.
    """

    name = "latent_write"
    operands = (Operand("kv", CACHE), activation("latent"), activation("rope_key"), Operand("slots", I32))
    attributes = PAGING

    def infer(
        self,
        kv: TensorType,
        latent: TensorType,
        rope_key: TensorType,
        slots: TensorType,
        *,
        layer: int,
        page_size: int,
    ) -> TensorType:
        """The type of kv; latent [T, L], rope_key [T, R], slots [T]."""
        tokens, *_ = latent.shape
        if latent.rank != 2 or rope_key.rank != 2 or rope_key.shape[0] != tokens or slots.shape != (tokens,):
            raise IRError(
                "latent [T, L], rope_key [T, R] and slots [T] disagree", found=f"{latent}, {rope_key}, {slots}"
            )
        check_latent_cache(kv, layer, latent.shape[1], rope_key.shape[1], page_size)
        return kv

    def evaluate(
        self, kv: np.ndarray, latent: np.ndarray, rope_key: np.ndarray, slots: np.ndarray, *, layer: int, page_size: int
    ) -> np.ndarray:
        """A copy with assigned rows."""
        result = kv.copy()
        write_rows(result, layer, latent, rope_key, slots, page_size)
        return result

    def decompose(
        self,
        kv: mlir.Value,
        latent: mlir.Value,
        rope_key: mlir.Value,
        slots: mlir.Value,
        *,
        layer: int,
        page_size: int,
    ) -> mlir.Value:
        """The layer written, put back."""
        layers = type_of(kv).shape[0]
        assert isinstance(layers, int)
        middle = core_written(kv, layer, latent, rope_key, slots, page_size)
        before = [slice_axis(kv, axis=0, start=0, stop=layer)] if layer else []
        after = [slice_axis(kv, axis=0, start=layer + 1, stop=layers)] if layer + 1 < layers else []
        return concat(*before, middle, *after, axis=0)

    def generate(self, choose: Chooser) -> Generated:
        """One or two tokens at distinct slots of a two-layer cache."""
        latent, rotated = choose.choice([16, 48]), choose.choice([16, 6])
        kv = choose.like(_cache_type(latent, rotated, choose.choice([DType.F32, DType.BF16, DType.I8])))
        count = choose.integer(1, 2)
        rows = [choose.like(tensor((count, size))) for size in (latent, rotated)]
        slots = concat(*(choose.input(tensor((1,), DType.I32), 2 * i - 1, 2 * i) for i in range(count)), axis=0)
        return [kv, *rows, slots], {"layer": choose.integer(0, 1), "page_size": PAGE_SIZE}


class LatentAttention(Op):
    """Causal attention of ragged queries over the latent rows of their sequences.

    Tokens, sequences and pages are those of `attention`. A score is scale times the product of a row with the query,
    its latent part (through the absorbed map of the keys) before its rotated part; the value of a row is its first L
    numbers. Rows of padding tokens are zero.
    """

    name = "latent_attention"
    operands = (
        activation("q_latent"),
        activation("q_rope"),
        Operand("kv", CACHE),
        Operand("page_table", I32),
        Operand("query_start", I32),
        Operand("context_lens", I32),
    )
    attributes = (*PAGING, Attribute("scale", Kind.FLOAT))

    def infer(
        self,
        q_latent: TensorType,
        q_rope: TensorType,
        kv: TensorType,
        page_table: TensorType,
        query_start: TensorType,
        context_lens: TensorType,
        *,
        layer: int,
        page_size: int,
        scale: float,
    ) -> TensorType:
        """[T, heads, L], as q_latent; q_rope [T, heads, R], page_table [S, P], query_start [S+1], context_lens [S]."""
        fits = q_latent.rank == q_rope.rank == 3 and q_latent.dtype is q_rope.dtype
        if not fits or q_latent.shape[:2] != q_rope.shape[:2] or not isinstance(q_latent.shape[1], int):
            raise IRError("q_latent [T, heads, L] and q_rope [T, heads, R] disagree", found=f"{q_latent}, {q_rope}")
        sequences = page_table.shape[0] if page_table.rank == 2 else 0
        starts, lens = tensor((sequences + 1,), DType.I32), tensor((sequences,), DType.I32)
        if page_table.rank != 2 or not query_start.matches(starts) or not context_lens.matches(lens):
            raise IRError("wrong sequences", expected=f"{starts}, {lens}", found=f"{query_start}, {context_lens}")
        check_latent_cache(kv, layer, q_latent.shape[2], q_rope.shape[2], page_size)
        return q_latent

    def evaluate(
        self,
        q_latent: np.ndarray,
        q_rope: np.ndarray,
        kv: np.ndarray,
        page_table: np.ndarray,
        query_start: np.ndarray,
        context_lens: np.ndarray,
        *,
        layer: int,
        page_size: int,
        scale: float,
    ) -> np.ndarray:
        """Sequence by sequence."""
        q, out = np.concatenate([q_latent, q_rope], 2), np.zeros_like(q_latent)
        for s, context in enumerate(context_lens):
            begin, end = query_start[s], query_start[s + 1]
            if begin == end:
                continue
            used = page_table[s, : -(-int(context) // page_size)]
            rows = read_rows(kv, layer, q_latent.shape[2], q_rope.shape[2], used, page_size, q.dtype)[:context]
            scores = np.einsum("thd,jd->htj", q[begin:end], rows) * q.dtype.type(scale)
            position = np.arange(context - (end - begin), context)[:, None]
            visible = visible_keys(np.arange(context), position, 0)
            scores = np.where(visible, scores, MASKED)
            weights = np.exp(scores - scores.max(-1, keepdims=True)) * visible
            weights /= weights.sum(-1, keepdims=True)
            out[begin:end] = np.einsum("htj,jd->thd", weights, rows[:, : q_latent.shape[2]])
        return out

    def decompose(
        self,
        q_latent: mlir.Value,
        q_rope: mlir.Value,
        kv: mlir.Value,
        page_table: mlir.Value,
        query_start: mlir.Value,
        context_lens: mlir.Value,
        *,
        layer: int,
        page_size: int,
        scale: float,
    ) -> mlir.Value:
        """Every token sees the whole page table of its sequence under a mask."""
        (tokens, heads, latent), rotated = type_of(q_latent).shape, type_of(q_rope).shape[2]
        assert isinstance(latent, int)
        assert isinstance(rotated, int)
        sequence, position, live = locate(tokens, query_start, context_lens)
        pages = gather(page_table, sequence)  # [T, P]
        rows = core_rows(kv, pages, layer, latent, rotated, page_size)
        span = type_of(rows).shape[1]
        q, batch = concat(q_latent, q_rope, axis=2), {"x_batch": (0,), "y_batch": (0,)}
        scores = dot_general(q, rows, x_contract=(2,), y_contract=(2,), **batch)
        shape = (tokens, heads, span)
        scores = mul(scores, full(shape=shape, value=scale, dtype="f32"))
        visible = broadcast(causal_mask(position, live, span, 0), shape=shape, dims=(0, 2))
        weights = softmax(select(visible, scores, full(shape=shape, value=MASKED, dtype="f32")))
        values = slice_axis(rows, axis=2, start=0, stop=latent)
        mixed = dot_general(weights, values, x_contract=(2,), y_contract=(1,), **batch)
        shape = (tokens, heads, latent)
        return select(broadcast(live, shape=shape, dims=(0,)), mixed, full(shape=shape, value=0.0, dtype="f32"))

    def generate(self, choose: Chooser) -> Generated:
        """Two sequences, one mid-prompt, one decoding, and possibly a padding token."""
        latent, rotated, heads = choose.choice([16, 48]), choose.choice([16, 6]), choose.integer(1, 5)
        first, context = choose.integer(1, 4), choose.integer(4, 2 * PAGE_SIZE)
        kv = choose.input(_cache_type(latent, rotated, choose.choice([DType.F32, DType.BF16, DType.I8])), -2, 2)
        tokens, dtype = first + 1 + choose.integer(0, 1), choose.choice([DType.F32, DType.BF16])
        queries = [choose.like(tensor((tokens, heads, size), dtype)) for size in (latent, rotated)]
        table = choose.input(tensor((2, 2), DType.I32), 0, 3)
        ends = (0, first, first + 1, context, PAGE_SIZE + 1)
        zero, start, end, *lens = (choose.input(tensor((1,), DType.I32), v, v) for v in ends)
        batch = [concat(zero, start, end, axis=0), concat(*lens, axis=0)]
        attrs = {"layer": choose.integer(0, 1), "page_size": PAGE_SIZE, "scale": latent**-0.5}
        return [*queries, kv, table, *batch], attrs


PAGE_SIZE = 16  # of generated programs


def _cache_type(latent: int, rotated: int, dtype: DType) -> TensorType:
    """A generated program's cache: two layers, four pages."""
    return tensor((2, 4, 1, 1, PAGE_SIZE * row_size(latent, rotated, dtype)), dtype)


latent_write = LatentWrite()
latent_attention = LatentAttention()
