"""The loops of a linear layer, whatever its weights are made of: y[T, N] = x[T, K] @ W^T with a norm and an epilogue.

One kernel serves every T. A tile is (row block, unit): a unit is one panel of 32 output columns, or for SwiGLU a pair
of panels (gate, up). One row streams several panels at once from memory (decode is bound by its bandwidth); more rows
go through register tiles of `isa`-dependent height. No choice of these changes a bit of the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.kernels.panels import PANEL
from warploom.codegen.cpu.math import silu
from warploom.codegen.cpu.memory import Ptr, first_lanes
from warploom.codegen.cpu.values import LANES, Value, maximum, minimum

if TYPE_CHECKING:
    from warploom.codegen.cpu.kernels.linear_spec import LinearSpec

Halves = tuple[Value, Value]  # 32 columns
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of x, as they are or prepared in scratch; `first` is their place in the launch."""

    source: Ptr
    first: Value
    count: Value


class LinearEmitter(ABC, Generic[P]):
    """Emits one kernel: row blocks, then units, then row tiles. P is what `dot` reads of a panel.

    Attributes:
        heights: rows of a register tile by vector width, tallest first.
        stride: between prepared rows, in elements of what `prepare` returns.
        gates: scratch of 32 columns for each row of a block.
    """

    heights: ClassVar[dict[int, tuple[int, ...]]]

    def __init__(self, spec: LinearSpec, kernel: Kernel, stride: int, gates: Ptr) -> None:
        self.spec, self.kernel, self.stride, self.gates = spec, kernel, stride, gates

    @abstractmethod
    def prepare(self, source: Ptr, count: Value) -> Ptr:
        """Rows of x as `dot` reads them."""

    @abstractmethod
    def panels(self, unit: Value) -> list[P]:
        """The panels of a unit."""

    @abstractmethod
    def dot(self, rows: Sequence[Ptr], panels: Sequence[P], *, stream: bool) -> list[list[Halves]]:
        """rows[i] . panels[p] for every pair; `stream`: the panels come from main memory."""

    @abstractmethod
    def many_rows(self, rows: Rows, unit: Value) -> None:
        """All rows of a block times the panels of a unit, by `row_tiles`."""

    def emit(self) -> None:
        """Emit the body."""
        spec, kernel = self.spec, self.kernel
        units = spec.units
        with loop(kernel.begin // units, (kernel.end + (units - 1)) // units) as block:
            first = block * spec.row_block
            count = minimum(kernel.dims["T"] - first, spec.row_block)
            rows = Rows(self.prepare(kernel.operands["x"].at(first * spec.k), count), first, count)
            begin = maximum(kernel.begin - block * units, 0)
            end = minimum(kernel.end - block * units, units)
            with when(count.eq(1)):
                self._one_row(rows, begin, end)
            with when(count > 1), loop(begin, end) as unit:
                self.many_rows(rows, unit)

    def _one_row(self, rows: Rows, begin: Value, end: Value) -> None:
        """Stream units, as many at once as registers allow (4 panels at most: one memory stream each)."""
        at_once = max(min(4, self.kernel.isa.accumulators // 2) // self.spec.panels_per_unit, 1)
        whole = begin + (end - begin) // at_once * at_once
        for lower, upper, group in ((begin, whole, at_once), (whole, end, 1)):
            with loop(lower, upper, group) as unit:
                members = [unit + i for i in range(group)]
                panels = [panel for member in members for panel in self.panels(member)]
                (sums,) = self.dot([rows.source], panels, stream=True)
                for i, member in enumerate(members):
                    at = i * self.spec.panels_per_unit
                    self._finish([rows.first], member, [sums[at : at + self.spec.panels_per_unit]])

    def row_tiles(self, rows: Rows, unit: Value, panel: P, is_gate: bool, *, stream: bool = True) -> None:
        """Tiles of full height, then lower ones whose surplus rows repeat the last row."""
        full, *lower = self.heights[self.kernel.isa.vector_bits]
        whole = rows.count // full * full
        with loop(0, whole, full) as row:
            first = rows.source.at(row * self.stride)  # one base register, constant distances to the other rows
            sources = [first.at(i * self.stride) for i in range(full)]
            members = [row + i for i in range(full)]
            self._row_tile(rows, members, self.dot(sources, [panel], stream=stream), unit, is_gate)
        with loop(whole, rows.count, lower[0]) as row:
            left = rows.count - row
            for height, below in zip(lower, (*lower[1:], 0), strict=True):
                fits = left > below if height == lower[0] else (left > below) & (left <= height)
                with when(fits):
                    members = [minimum(row + i, rows.count - 1) for i in range(height)]
                    sources = [rows.source.at(member * self.stride) for member in members]
                    self._row_tile(rows, members, self.dot(sources, [panel], stream=stream), unit, is_gate)

    def _row_tile(self, rows: Rows, members: list[Value], sums: list[list[Halves]], unit: Value, is_gate: bool) -> None:
        if is_gate:
            self._keep_gates(members, sums)
            return
        if self.spec.epilogue == "swiglu":
            sums = [[self._gates(member), up] for member, (up,) in zip(members, sums, strict=True)]
        self._finish([rows.first + member for member in members], unit, sums)

    def _keep_gates(self, members: list[Value], sums: list[list[Halves]]) -> None:
        for member, ((low, high),) in zip(members, sums, strict=True):
            self.gates.store(member * PANEL, low)
            self.gates.store(member * PANEL + LANES, high)

    def _gates(self, member: Value) -> Halves:
        return self.gates.load(member * PANEL), self.gates.load(member * PANEL + LANES)

    def _finish(self, rows: list[Value], unit: Value, sums: list[list[Halves]]) -> None:
        """Scale, activation, residual, store: 32 columns of y for each row. All loads come before the stores, so
        that a row repeated by a tile is right even where y and the residual are one buffer.
        """
        spec, y = self.spec, self.kernel.operands["y"]
        columns = [unit * PANEL + half * LANES for half in (0, 1)]
        masks = [None if spec.outputs % PANEL == 0 else first_lanes(spec.outputs - column) for column in columns]
        places = [
            (row * spec.outputs + column, mask) for row in rows for column, mask in zip(columns, masks, strict=True)
        ]
        results = [self._activate(unit, half, [pair[half] for pair in pairs]) for pairs in sums for half in (0, 1)]
        if spec.epilogue == "residual":
            residual = self.kernel.operands["residual"]
            results = [residual.load(at, mask=mask) + value for (at, mask), value in zip(places, results, strict=True)]
        for (at, mask), value in zip(places, results, strict=True):
            y.store(at, value, mask=mask)

    def _activate(self, unit: Value, half: int, sums: list[Value]) -> Value:
        """16 columns of y before the residual, from the sums of each panel of the unit."""
        if self.spec.scales_at_end:
            first = unit * (self.spec.panels_per_unit * PANEL) + half * LANES
            scale = self.kernel.operands["scale"]
            sums = [value * scale.load(first + i * PANEL) for i, value in enumerate(sums)]
        if self.spec.epilogue == "swiglu":
            gate, up = sums
            return silu(gate) * up
        return sums[0]
