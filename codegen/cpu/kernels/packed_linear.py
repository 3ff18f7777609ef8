"""Linear layers on panels of floats or weight-only int8: `linear_emitter.py` on f32 rows.

Many rows first widen a panel to f32 into scratch, where all row tiles reuse it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.kernels.linear_emitter import Halves, LinearEmitter, Rows
from warploom.codegen.cpu.kernels.panels import PANEL, Panel, dot, widen_panel
from warploom.codegen.cpu.kernels.row_f8 import round_row_to_f8, scale_of_row
from warploom.codegen.cpu.kernels.row_norm import normalize_row
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value

if TYPE_CHECKING:
    from warploom.codegen.cpu.kernels.linear_spec import LinearSpec

_WIDEN_ROWS = 16  # from more rows than this on, widening a panel to f32 once is cheaper than in every row tile


class PackedLinear(LinearEmitter[Panel]):
    """Emits one kernel."""

    # Measured: on AVX-512 12 rows beat 8 by a tenth; on AVX2 3 spill registers and run at a third of the speed of 2.
    heights: ClassVar[dict[int, tuple[int, ...]]] = {512: (12, 8, 4, 2, 1), 256: (2, 1)}

    def __init__(self, spec: LinearSpec, kernel: Kernel) -> None:
        self.normalized = kernel.scratch.cast("f32")
        self.widened = self.normalized.at(spec.row_block * spec.k)
        super().__init__(spec, kernel, spec.k, self.widened.at(spec.k * PANEL))

    def prepare(self, source: Ptr, count: Value) -> Ptr:
        """Rows as they are, or normalized, or rounded to f8, in scratch."""
        spec = self.spec
        if spec.norm_eps is None and not spec.rounds:
            return source
        with loop(0, count) as i:
            row, out = source.at(i * spec.k), self.normalized.at(i * spec.k)
            if spec.norm_eps is not None:
                normalize_row(row, self.kernel.operands["norm"], out, spec.k, spec.norm_eps)
                row = out
            if spec.rounds:
                scale = self.kernel.operands["x_scale"][0] if spec.static else scale_of_row(row, spec.k)
                round_row_to_f8(row, out, spec.k, scale)
        return self.normalized

    def dot(self, rows: Sequence[Ptr], panels: Sequence[Panel], *, stream: bool) -> list[list[Halves]]:
        """See `panels.dot`."""
        return dot(rows, panels, self.spec.k, stream=stream)

    def many_rows(self, rows: Rows, unit: Value) -> None:
        """Each panel of the unit passes over all row tiles; gate columns wait in scratch for their up columns."""
        panels = self.panels(unit)
        for panel in panels:
            is_gate = len(panels) == 2 and panel is panels[0]
            with when(rows.count <= _WIDEN_ROWS):
                self.row_tiles(rows, unit, panel, is_gate)
            with when(rows.count > _WIDEN_ROWS):
                widen_panel(panel, self.widened, self.spec.k)
                self.row_tiles(rows, unit, Panel(self.widened), is_gate, stream=False)

    def panels(self, unit: Value) -> list[Panel]:
        """The panels of a unit."""
        spec, operands = self.spec, self.kernel.operands
        first, found = unit * spec.panels_per_unit, []
        for i in range(spec.panels_per_unit):
            weight = operands["weight"].at((first + i) * (spec.k * PANEL))
            side = operands["scale"].at((first + i) * (spec.groups * PANEL)) if spec.groups else None
            found.append(Panel(weight, side, spec.k // spec.groups if spec.groups else 0))
        return found
