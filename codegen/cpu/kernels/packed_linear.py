"""Linear layers on packed weights: y[T, N] = x[T, K] @ W^T with an RMSNorm before and a residual or SwiGLU after.

One kernel serves every T. A tile is (row block, unit): a unit is one panel of 32 output columns, or for SwiGLU a pair
of panels (gate, up). One row streams several panels at once from memory (decode is bound by its bandwidth); more rows
go through register tiles of `isa`-dependent height, and many rows first widen the panel to f32 into scratch, where all
row tiles reuse it. No choice of these changes a bit of the result (see `panels.dot`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernels.panels import PANEL, dot, widen_panel
from warploom.codegen.cpu.kernels.row_norm import normalize_row
from warploom.codegen.cpu.math import silu
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr, first_lanes
from warploom.codegen.cpu.values import LANES, Value, maximum, minimum

Weight = Literal["f32", "bf16", "i8"]
Halves = tuple[Value, Value]  # 32 columns

_ROW_BLOCK_BYTES = 512 * 1024  # a row block of x should stay in L2 while panels pass by
# Rows of a register tile by vector width, tallest first. Measured: on AVX-512 12 beats 8 by a tenth; on AVX2 3 spills
# registers and runs at a third of the speed of 2.
_TILE_HEIGHTS = {512: (12, 8, 4, 2, 1), 256: (2, 1)}
_WIDEN_ROWS = 16  # from more rows than this on, widening a panel to f32 once is cheaper than in every row tile


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """What one linear kernel computes.

    Attributes:
        n: columns of W (gate and up together for SwiGLU).
        k: columns of x.
        weight: dtype of W in memory; "i8" has an f32 scale per column.
        norm_eps: normalize the rows of x first, by RMSNorm with this epsilon.
        epilogue: "residual" adds an operand [T, N]; "swiglu" gives silu(gate) * up [T, N/2], where panel 2j of W holds
            gate columns 32j .. 32j+31 and panel 2j+1 the same up columns.
    """

    n: int
    k: int
    weight: Weight
    norm_eps: float | None = None
    epilogue: Literal["residual", "swiglu"] | None = None

    @property
    def outputs(self) -> int:
        """Columns of y."""
        return self.n // 2 if self.epilogue == "swiglu" else self.n

    @property
    def panels_per_unit(self) -> int:
        """Panels that make 32 columns of y."""
        return 2 if self.epilogue == "swiglu" else 1

    @property
    def units(self) -> int:
        """Groups of 32 columns of y."""
        return -(-self.outputs // PANEL)

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        norm = "" if self.norm_eps is None else f"_rms_{self.norm_eps!r}".replace(".", "_").replace("-", "m")
        return f"linear_{self.weight}_{self.n}x{self.k}{norm}{'' if self.epilogue is None else '_' + self.epilogue}"

    @property
    def dims(self) -> tuple[str, ...]:
        """Rows of x."""
        return ("T",)

    @property
    def operands(self) -> dict[str, str]:
        """Buffers in ABI order: x [T,K], weight [panels,K,32], scale [panels,32], norm [K], residual [T,N], y."""
        present = {
            "x": "f32",
            "weight": self.weight,
            "scale": "f32" if self.weight == "i8" else None,
            "norm": None if self.norm_eps is None else "f32",
            "residual": "f32" if self.epilogue == "residual" else None,
            "y": "f32",
        }
        return {name: element for name, element in present.items() if element is not None}

    @property
    def row_block(self) -> int:
        """Rows of x of one tile."""
        return next(rows for rows in (192, 96, 48, 24) if rows * self.k * 4 <= _ROW_BLOCK_BYTES or rows == 24)

    @property
    def tiles(self) -> str:
        """Tiles of a launch, an expression over T."""
        return f"(T + {self.row_block - 1}) // {self.row_block} * {self.units}"

    @property
    def flops(self) -> str:
        """Floating-point operations of a launch, an expression over T."""
        return f"T * {2 * self.n * self.k}"

    @property
    def bytes(self) -> str:
        """Bytes that a launch must move at least once, an expression over T."""
        columns = self.units * self.panels_per_unit * PANEL
        fixed = columns * (self.k * ELEMENT_BYTES[self.weight] + (4 if self.weight == "i8" else 0))
        per_row = 4 * (self.k + self.outputs * (2 if self.epilogue == "residual" else 1))
        return f"{fixed} + T * {per_row}"

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of one thread: normalized rows, a widened panel, a row block's gates."""
        return 4 * (self.row_block * self.k + self.k * PANEL + self.row_block * PANEL)

    def emit(self, library: Library) -> None:
        """Add the kernel to the library."""
        with library.kernel(self.name, self.operands, self.dims) as kernel:
            _Linear(self, kernel).emit()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Consecutive rows of x, as they are or normalized in scratch; `first` is their place in the launch."""

    source: Ptr
    first: Value
    count: Value


class _Linear:
    """Emits one kernel: row blocks, then units, then row tiles."""

    def __init__(self, spec: LinearSpec, kernel: Kernel) -> None:
        self.spec, self.kernel = spec, kernel
        scratch = kernel.scratch.cast("f32")
        self.normalized = scratch
        self.widened = scratch.at(spec.row_block * spec.k)
        self.gates = self.widened.at(spec.k * PANEL)

    def emit(self) -> None:
        spec, kernel = self.spec, self.kernel
        units = spec.units
        with loop(kernel.begin // units, (kernel.end + (units - 1)) // units) as block:
            first = block * spec.row_block
            count = minimum(kernel.dims["T"] - first, spec.row_block)
            source = kernel.operands["x"].at(first * spec.k)
            if spec.norm_eps is not None:
                source = self._normalize(source, count)
            rows = _Rows(source, first, count)
            begin = maximum(kernel.begin - block * units, 0)
            end = minimum(kernel.end - block * units, units)
            with when(count.eq(1)):
                self._one_row(rows, begin, end)
            with when(count > 1), loop(begin, end) as unit:
                self._many_rows(rows, unit)

    def _normalize(self, source: Ptr, count: Value) -> Ptr:
        spec = self.spec
        with loop(0, count) as row:
            offset = row * spec.k
            weight = self.kernel.operands["norm"]
            normalize_row(source.at(offset), weight, self.normalized.at(offset), spec.k, spec.norm_eps or 0.0)
        return self.normalized

    def _one_row(self, rows: _Rows, begin: Value, end: Value) -> None:
        """Stream units, as many at once as registers allow (4 panels at most: one memory stream each)."""
        at_once = max(min(4, self.kernel.isa.accumulators // 2) // self.spec.panels_per_unit, 1)
        whole = begin + (end - begin) // at_once * at_once
        for lower, upper, group in ((begin, whole, at_once), (whole, end, 1)):
            with loop(lower, upper, group) as unit:
                members = [unit + i for i in range(group)]
                panels = [panel for member in members for panel in self._panels(member)]
                (sums,) = dot([rows.source], panels, self.spec.k, stream=True)
                for i, member in enumerate(members):
                    at = i * self.spec.panels_per_unit
                    self._finish([rows.first], member, [sums[at : at + self.spec.panels_per_unit]])

    def _many_rows(self, rows: _Rows, unit: Value) -> None:
        """Each panel of the unit passes over all row tiles; gate columns wait in scratch for their up columns."""
        panels = self._panels(unit)
        for panel in panels:
            is_gate = len(panels) == 2 and panel is panels[0]
            with when(rows.count <= _WIDEN_ROWS):
                self._row_tiles(rows, unit, panel, is_gate)
            with when(rows.count > _WIDEN_ROWS):
                widen_panel(panel, self.widened, self.spec.k)
                self._row_tiles(rows, unit, self.widened, is_gate)

    def _row_tiles(self, rows: _Rows, unit: Value, panel: Ptr, is_gate: bool) -> None:
        """Tiles of full height, then lower ones whose surplus rows repeat the last row."""
        full, *lower = _TILE_HEIGHTS[self.kernel.isa.vector_bits]
        whole = rows.count // full * full
        with loop(0, whole, full) as row:
            first = rows.source.at(row * self.spec.k)  # one base register, constant distances to the other rows
            sources = [first.at(i * self.spec.k) for i in range(full)]
            self._row_tile(rows, [row + i for i in range(full)], sources, unit, panel, is_gate)
        with loop(whole, rows.count, lower[0]) as row:
            left = rows.count - row
            for height, below in zip(lower, (*lower[1:], 0), strict=True):
                fits = left > below if height == lower[0] else (left > below) & (left <= height)
                with when(fits):
                    members = [minimum(row + i, rows.count - 1) for i in range(height)]
                    sources = [rows.source.at(member * self.spec.k) for member in members]
                    self._row_tile(rows, members, sources, unit, panel, is_gate)

    def _row_tile(
        self, rows: _Rows, members: list[Value], sources: list[Ptr], unit: Value, panel: Ptr, is_gate: bool
    ) -> None:
        sums = dot(sources, [panel], self.spec.k, stream=panel is not self.widened)
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

    def _panels(self, unit: Value) -> list[Ptr]:
        spec, size = self.spec, self.spec.k * PANEL
        first = unit * (spec.panels_per_unit * size)
        return [self.kernel.operands["weight"].at(first + i * size) for i in range(spec.panels_per_unit)]

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
        if self.spec.weight == "i8":
            first = unit * (self.spec.panels_per_unit * PANEL) + half * LANES
            scale = self.kernel.operands["scale"]
            sums = [value * scale.load(first + i * PANEL) for i, value in enumerate(sums)]
        if self.spec.epilogue == "swiglu":
            gate, up = sums
            return silu(gate) * up
        return sums[0]
