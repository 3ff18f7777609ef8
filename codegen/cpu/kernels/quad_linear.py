"""Linear layers on weights in quads: x is ordered, normalized and quantized first; `linear_emitter.py` on records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.kernels import quads
from warploom.codegen.cpu.kernels.linear_emitter import Halves, LinearEmitter, Rows
from warploom.codegen.cpu.kernels.panels import PANEL
from warploom.codegen.cpu.kernels.quads import QuadFormat, QuadPanel
from warploom.codegen.cpu.kernels.row_norm import normalize_row
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value, convert_int

if TYPE_CHECKING:
    from warploom.codegen.cpu.kernels.linear_spec import LinearSpec


class QuadLinear(LinearEmitter[QuadPanel]):
    """Emits one kernel."""

    # A row has two f32 sums, and an integer sum while it is made.
    heights: ClassVar[dict[int, tuple[int, ...]]] = {512: (8, 4, 2, 1), 256: (2, 1)}

    def __init__(self, spec: LinearSpec, kernel: Kernel) -> None:
        assert isinstance(spec.weight, QuadFormat)
        self.form = spec.weight
        self.row = kernel.scratch.cast("f32")
        self.records = kernel.scratch.at(4 * spec.k)
        gates = self.records.at(spec.row_block * self.form.record_bytes).cast("f32")
        super().__init__(spec, kernel, self.form.record_bytes, gates)

    def prepare(self, source: Ptr, count: Value) -> Ptr:
        """Records of the rows."""
        spec = self.spec
        with loop(0, count) as i:
            row = source.at(i * spec.k)
            if spec.ordered:
                self._take_columns(row)
                row = self.row
            if spec.norm_eps is not None:
                normalize_row(row, self.kernel.operands["norm"], self.row, spec.k, spec.norm_eps)
                row = self.row
            quads.quantize_row(row, self.records.at(i * self.stride), self.form, self.kernel.isa)
        return self.records

    def _take_columns(self, x: Ptr) -> None:
        """A row in the order of the weight's columns, into scratch."""
        order = self.kernel.operands["order"]
        with loop(0, self.spec.k) as column:
            self.row[column] = x[convert_int(order[column], "i64")]

    def dot(self, rows: Sequence[Ptr], panels: Sequence[QuadPanel], *, stream: bool) -> list[list[Halves]]:
        """Products of records and panels."""
        return quads.dot(rows, panels, self.form, self.kernel.isa, stream=stream)

    def many_rows(self, rows: Rows, unit: Value) -> None:
        """Each panel of the unit passes over all row tiles."""
        panels = self.panels(unit)
        for i, panel in enumerate(panels):
            self.row_tiles(rows, unit, panel, len(panels) == 2 and i == 0)

    def panels(self, unit: Value) -> list[QuadPanel]:
        """The panels of a unit."""
        operands, form = self.kernel.operands, self.form
        first = unit * self.spec.panels_per_unit
        found = []
        for i in range(self.spec.panels_per_unit):
            side = (first + i) * (form.groups * PANEL)
            offset = operands["offset"].at(side) if form.offsets else None
            weight = operands["weight"].at((first + i) * form.panel_bytes)
            found.append(QuadPanel(weight, operands["scale"].at(side), offset))
        return found
