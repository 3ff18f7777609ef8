"""Loops that compute every element of the root by itself: elementwise and shape ops, reductions and contractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.loops.arithmetic import write
from warploom.codegen.cpu.loops.coords import Coord
from warploom.codegen.cpu.loops.element import Elements
from warploom.codegen.cpu.loops.folds import fold
from warploom.codegen.cpu.loops.schedule import Schedule, for_columns, rows_and_columns
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import LANES, Value
from warploom.codegen.loop_program import FOLDS, Program
from warploom.ir.dims import DimLike, product


@dataclass(frozen=True, slots=True)
class Mode:
    """Where the lanes of vectors lie: along the columns of the result, or along the folded axis, or nowhere."""

    columns: bool = False
    folded: bool = False


def modes(program: Program) -> list[Mode]:
    """The modes worth trying, best first. The last always works."""
    columns = _fills_vectors(rows_and_columns(program)[1])
    folded = program.root.op in FOLDS and _fills_vectors(product(program.folded))
    return [Mode(columns=True)] * columns + [Mode(folded=True)] * folded + [Mode()]


def _fills_vectors(size: DimLike) -> bool:
    return not isinstance(size, int) or size >= LANES


def emit_map(k: Kernel, elements: Elements, schedule: Schedule, outs: Sequence[Ptr], mode: Mode) -> None:
    """Compute the span of each tile, of all that is stored.

    Raises:
        Irregular: vectors cannot lie as `mode` says.
    """
    root, extents = elements.program.root, elements.extents
    columns = extents.value(schedule.columns)

    def store(row: Value, column: Coord) -> None:
        coords = schedule.coords(row, column, root.type.rank, extents)
        lanes = 0 if column.is_uniform else LANES
        if root.op in FOLDS:
            values = [fold(elements, coords, lanes=lanes, along=mode.folded)]
        else:
            values = elements.all_at(elements.program.stored, coords)
        for out, value in zip(outs, values, strict=True):
            write(out, row * columns + column.base, value, lanes)

    with schedule.spans(k, extents) as span, loop(span.first_row, span.last_row) as row:
        first, last = span.first_column, span.last_column
        for_columns(first, last, schedule.columns, mode.columns, lambda column: store(row, column))
