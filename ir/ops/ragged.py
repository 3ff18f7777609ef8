"""Ragged batches as values: to which sequence a token belongs, where it stands, and what it sees."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.dims import DimLike
from warploom.ir.ops.elementwise import add, bit_and, cast, compare, sub
from warploom.ir.ops.reduce import reduce_sum
from warploom.ir.ops.shape import broadcast, full, gather, iota
from warploom.ir.types import type_of


def visible_keys(key: np.ndarray, position: np.ndarray, window: int) -> np.ndarray:
    """Which keys a query at a position sees; window 0: all up to its own."""
    causal = key <= position
    return causal & (key > position - window) if window else causal


def locate(tokens: DimLike, query_start: mlir.Value, context_lens: mlir.Value) -> tuple[mlir.Value, ...]:
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


def causal_mask(position: mlir.Value, live: mlir.Value, span: DimLike, window: int) -> mlir.Value:
    """[T, span]: which keys a token attends."""
    tokens = type_of(position).shape[0]
    matrix = (tokens, span)
    key, at = iota(shape=matrix, axis=1), broadcast(position, shape=matrix, dims=(0,))
    visible: mlir.Value = compare(key, at, direction="le")
    if window:
        edge = sub(at, full(shape=matrix, value=float(window), dtype="i32"))
        visible = bit_and(visible, compare(key, edge, direction="gt"))
    return visible
