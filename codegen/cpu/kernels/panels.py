"""Packed weight panels: 32 output columns by K, one row of 32 columns per k, as f32, bf16, f8 or int8.

A panel row is two vectors of 16 f32 lanes. bf16 rows are read as 16 pairs: the low halves are the even columns and the
high halves the odd ones, two bit operations and no shuffle; `natural_order` undoes it once per output. All forms hold
the same numbers, so a product does not depend on which one was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from warploom.codegen.cpu.control import carry, loop
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import LANES, Value, bitcast, broadcast, constant, fma, interleave, to_f32

PANEL = 32  # output columns of a panel
_CACHE_LINE = 64  # bytes
_PREFETCH_DISTANCE = 2048  # bytes; the hardware stops at each page, and restarts late on a single stream
_HIGH_HALF = -0x10000

Halves = tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, and where runs of `group` rows of it have scales of their own, those [groups, 32], f32."""

    weight: Ptr
    scale: Ptr | None = None
    group: int = 0

    def reader(self, first: Value) -> Callable[[int], Halves]:
        """Reads rows behind `first`, all of one group, as f32."""
        here = self.weight.at(first * PANEL)
        if self.scale is None:
            return lambda row: load_row(here, row)
        side = self.scale.at(first // self.group * PANEL)
        low, high = side.load(0), side.load(LANES)

        def scaled(row: int) -> Halves:
            a, b = load_row(here, row)
            return a * low, b * high

        return scaled


def load_row(panel: Ptr, row: int) -> Halves:
    """The 32 weights of row `row` as f32; bf16 as (even columns, odd columns)."""
    if panel.element == "bf16":
        pairs = panel.cast("i32").load(row * LANES)
        return bitcast(pairs << 16, "f32"), bitcast(pairs & _HIGH_HALF, "f32")
    return to_f32(panel.load(row * PANEL)), to_f32(panel.load(row * PANEL + LANES))


def natural_order(panel: Ptr, first: Value, second: Value) -> Halves:
    """The two halves of an output row of `panel`, columns 0..15 and 16..31."""
    return interleave(first, second) if panel.element == "bf16" else (first, second)


def widen_panel(panel: Panel, out: Ptr, k: int) -> None:
    """Copy a panel [k, 32] to f32."""
    unroll = unroll_of(panel.group or k, 4)
    with loop(0, k, unroll) as j:
        source, target = panel.weight.at(j * PANEL), out.at(j * PANEL)
        _prefetch_rows(source, unroll)
        if panel.scale is None:  # in natural order, which a reader does not give of bf16
            halves = [to_f32(source.load(half * LANES)) for half in range(2 * unroll)]
        else:
            read = panel.reader(j)
            halves = [half for row in range(unroll) for half in read(row)]
        for i, half in enumerate(halves):
            target.store(i * LANES, half)


def dot(rows: Sequence[Ptr], panels: Sequence[Panel], k: int, *, stream: bool = False) -> list[list[Halves]]:
    """rows[i] . panels[p] for every pair, in natural column order: result[i][p].

    Each output is one chain acc = fma(x[j], w[j], acc), j = 0 .. k-1, whatever the number of rows and panels: this is
    what makes results independent of the batch. All 2 * rows * panels accumulators stay in registers. `stream` says
    that the panels come from main memory.
    """
    unroll = unroll_of(panels[0].group or k, max(8 // len(rows), 2))

    def body(j: Value, *state: Value) -> list[Value]:
        sums = list(state)
        row_steps = [row.at(j) for row in rows]
        for panel in panels if stream else ():
            _prefetch_rows(panel.weight.at(j * PANEL), unroll)
        readers = [panel.reader(j) for panel in panels]
        for step in range(unroll):
            x = [broadcast(row[step]) for row in row_steps]
            weights = [half for read in readers for half in read(step)]
            products = [(left, right) for left in x for right in weights]
            sums = [fma(left, right, total) for (left, right), total in zip(products, sums, strict=True)]
        return sums

    zero = constant(0.0, "f32", LANES)
    sums = iter(carry(0, k, [zero] * (2 * len(rows) * len(panels)), body, unroll))
    return [[natural_order(panel.weight, next(sums), next(sums)) for panel in panels] for _ in rows]


def _prefetch_rows(panel: Ptr, rows: int) -> None:
    prefetch_ahead(panel, rows * PANEL * ELEMENT_BYTES[panel.element])


def prefetch_ahead(stream: Ptr, count: int) -> None:
    """Ask for what comes some way behind the next `count` bytes of a stream."""
    for line in range(0, count, _CACHE_LINE):
        stream.cast("i8").prefetch(line + _PREFETCH_DISTANCE)


def unroll_of(k: int, limit: int) -> int:
    """The largest power of two up to `limit` that divides k."""
    return next(step for step in (8, 4, 2, 1) if step <= limit and k % step == 0)
