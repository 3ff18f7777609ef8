"""Folds over one long row of f32, such as the logits of a token: sums, arg-maxima, the log of a sum of exponentials.

Several chains of vectors hide the latency of the fold's step; the order of combination is fixed by the length alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from warploom.codegen.cpu.control import carry
from warploom.codegen.cpu.math import exp, log
from warploom.codegen.cpu.memory import Ptr, first_lanes, lanes_of_row
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    broadcast,
    constant,
    convert_int,
    iota,
    minimum,
    reduce,
    reduce_add,
    reduce_max,
    select,
)

CHAINS = 4
NONE = 2**31 - 1  # the index of nothing
Load = Callable[[Value], Value]
Step = Callable[..., Sequence[Value]]


def fold_row(columns: int, initial: Sequence[Value], step: Step, combine: Step, chains: int = CHAINS) -> list[Value]:
    """Fold vectors of 16 columns.

    Args:
        columns: of the row; the last vector may reach beyond, `step` must not let that count.
        initial: neutral state, vectors.
        step: (column of the first lane, *state) -> state.
        combine: (*state, *other state) -> state.
        chains: vectors in flight; 1 where the step itself is long.
    """
    width, chunk = len(initial), chains * LANES
    whole = columns // chunk * chunk

    def chunk_step(i: Value, *states: Value) -> list[Value]:
        return [
            value
            for chain in range(chains)
            for value in step(i + chain * LANES, *states[chain * width : (chain + 1) * width])
        ]

    states = carry(0, whole, [*initial] * chains, chunk_step, chunk)
    total = states[:width]
    for chain in range(1, chains):
        total = list(combine(*total, *states[chain * width : (chain + 1) * width]))
    return carry(whole, columns, total, step, LANES)


def sums_of_columns(columns: int, count: int, step: Step) -> list[Value]:
    """Sums over columns, in one chain each: vectors of partial sums.

    Args:
        columns: of the rows that are read.
        count: of the sums.
        step: (column of the first lane, *sums, mask=lanes that are columns, None for all) -> sums.
    """
    whole = columns // LANES * LANES
    sums = carry(0, whole, [constant(0.0, "f32", LANES)] * count, partial(step, mask=None), LANES)
    if whole == columns:
        return sums
    return carry(whole, columns, sums, lambda i, *sums: step(i, *sums, mask=first_lanes(columns - i)), LANES)


def load_row(x: Ptr, columns: int) -> Load:
    """Reads vectors of a row in memory; lanes beyond its end are -inf."""

    def load(i: Value) -> Value:
        mask = lanes_of_row(i, columns)
        return x.load(i) if mask is None else select(mask, x.load(i, mask=mask), -float("inf"))

    return load


def sum_row(load: Load, columns: int) -> Value:
    """Sum of a row."""
    zero = constant(0.0, "f32", LANES)
    (total,) = fold_row(columns, [zero], lambda i, total: [total + load(i)], lambda left, right: [left + right])
    return reduce_add(total)


def argmax_row(
    load: Load, columns: int, eligible: Callable[[Value, Value], Value] | None = None, chains: int = CHAINS
) -> tuple[Value, Value]:
    """The largest value of a row and its first index (i32, always within the row).

    Args:
        load: reads a vector at a column.
        columns: of the row.
        eligible: (values, their indices) -> which may be chosen; None: all.
        chains: as in `fold_row`.
    """

    def step(i: Value, best: Value, index: Value) -> list[Value]:
        value, position = load(i), iota() + broadcast(convert_int(i, "i32"))
        better = (value > best) | index.eq(NONE)
        if eligible is not None:
            better = better & eligible(value, position)
        return [select(better, value, best), select(better, position, index)]

    def combine(best: Value, index: Value, other: Value, place: Value) -> list[Value]:
        better = (other > best) | (other.eq(best) & (place < index))
        return [select(better, other, best), select(better, place, index)]

    initial = [constant(-float("inf"), "f32", LANES), constant(NONE, "i32", LANES)]
    best, index = fold_row(columns, initial, step, combine, chains)
    peak = reduce_max(best)
    first = reduce(select(best.eq(peak), index, NONE), minimum)
    return peak, minimum(first, columns - 1)


def log_sum_exp_row(load: Load, columns: int, peak: Value) -> Value:
    """log(sum(exp(x - peak))) of a row whose largest value is `peak`."""
    return log(sum_row(lambda i: exp(load(i) - broadcast(peak)), columns))
