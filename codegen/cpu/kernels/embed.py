"""Embedding lookup from a table as checkpoints store it, or from the panels that it shares with the output layer."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.panels import PANEL
from warploom.codegen.cpu.kernels.quad_embed import QuadEmbedSpec
from warploom.codegen.cpu.kernels.quads import QuadFormat
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr, lanes_of_row
from warploom.codegen.cpu.values import LANES, Value, broadcast, convert_int, maximum, minimum, to_f32
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.layouts import columns_of
from warploom.ir.ops.linear import embed
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.patterns import has_row_scales, weight_operands
from warploom.ir.types import DType, type_of

KIND = "embed"


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """Row ids[t] of a table of `rows` rows as f32 [T, columns]; ids outside are clamped.

    Attributes:
        table: dtype in memory; "i8" and "f8e4m3" have one f32 scale per row, packed as the table: row r's is at r in
            both layouts.
        layout: "row" [rows, columns] or "panel" [ceil(rows/32), columns, 32].
    """

    rows: int
    columns: int
    table: str
    layout: str

    dims = ("T",)
    tiles = "T"
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"embed_{self.layout}_{self.table}_{self.rows}x{self.columns}"

    @property
    def is_quantized(self) -> bool:
        """Whether rows have scales."""
        return self.table in ("i8", "f8e4m3")

    @property
    def flops(self) -> str:
        """One product per element of a quantized table."""
        return f"T * {self.columns}" if self.is_quantized else "0"

    @property
    def bytes(self) -> str:
        """What is read of the table, and the result; a panel brings in a cache line for each element."""
        read = ELEMENT_BYTES[self.table] * (PANEL if self.layout == "panel" else 1)
        return f"T * {self.columns * (min(read, 64) + 4)}"

    def emit(self, library: Library) -> None:
        """Operands: ids, table, scale (i8 only), out."""
        scale = {"scale": "f32"} if self.is_quantized else {}
        operands = {"ids": "i32", "table": self.table, **scale, "out": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as token:
            clamped = minimum(maximum(k.operands["ids"][token], 0), self.rows - 1)
            row, out = convert_int(clamped, "i64"), k.operands["out"].at(token * self.columns)
            factor = k.operands["scale"][row] if scale else None
            copy = self._copy_row if self.layout == "row" else self._copy_column
            copy(k.operands["table"], row, factor, out)

    def _copy_row(self, table: Ptr, row: Value, factor: Value | None, out: Ptr) -> None:
        source = table.at(row * self.columns)
        with loop(0, self.columns, LANES) as i:
            mask = lanes_of_row(i, self.columns)
            value = to_f32(source.load(i, mask=mask))
            out.store(i, value if factor is None else value * broadcast(factor), mask=mask)

    def _copy_column(self, table: Ptr, row: Value, factor: Value | None, out: Ptr) -> None:
        source = table.at((row // PANEL) * (PANEL * self.columns) + row % PANEL)
        with loop(0, self.columns) as i:
            value = to_f32(source[i * PANEL])
            out[i] = value if factor is None else value * factor


def _spec(operation: mlir.Operation, rows: int, layout: str) -> EmbedSpec | QuadEmbedSpec | str:
    table, *sides = weight_operands(operation)
    shape = [static(size) for size in type_of(table).shape]
    if layout in ("quad", "quad4"):
        scale = type_of(sides[0])
        if scale.dtype not in (DType.F32, DType.F16):
            return f"takes scales of f32 or f16; here {scale}"
        form = QuadFormat(
            columns_of(shape, layout), layout == "quad4", static(scale.shape[1]), scale.dtype.value, len(sides) > 1
        )
        return QuadEmbedSpec(rows, form)
    if layout not in ("row", "panel") or not has_row_scales(operation):
        return f"no lookup in layout {layout}, only in quads, and in row and panel with scales per row"
    return EmbedSpec(rows, shape[1], type_of(table).dtype.value, layout)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `embed` or `quantized_embed`, or why there is none."""
    operation = only_op(group, embed, quantized_embed)
    if isinstance(operation, str):
        return operation
    attrs, ids = embed.attrs_of(operation), operation.operands[0]
    spec = _spec(operation, attrs["n"], attrs["layout"])
    if isinstance(spec, str):
        return spec
    inputs = tuple(input_slot(group, value) for value in operation.operands)
    return Match(spec, (*inputs, result_slot(group, operation.results[0])), {"T": str(product(type_of(ids).shape))})
