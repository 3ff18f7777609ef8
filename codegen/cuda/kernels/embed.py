"""Embedding lookup from a table in rows, with the cast that may follow it."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.kernels.groups import input_slot, result_slot, static
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.render import render
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import embed
from warploom.ir.ops.quantization import quantized_embed
from warploom.ir.patterns import has_row_scales
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of

KIND = "embed"
MAX_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """Row ids[t] of a table [rows, columns] as out [T, columns]; ids outside are clamped.

    Attributes:
        table: dtype in memory; i8 and f8 have one f32 scale per row.
    """

    rows: int
    columns: int
    table: DType
    out: DType
    pdl: bool

    @property
    def name(self) -> str:
        return f"embed_{self.table.value.removesuffix('e4m3')}_{self.rows}x{self.columns}_{self.out}"

    @property
    def is_quantized(self) -> bool:
        """Whether there are scales."""
        return self.table in (DType.I8, DType.F8)

    @property
    def operands(self) -> tuple[Pointer, ...]:
        scale = [Pointer("scale", DType.F32)] if self.is_quantized else []
        return Pointer("ids", DType.I32), Pointer("table", self.table), *scale, Pointer("out", self.out)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def block(self) -> int:
        """Columns of a block."""
        return min(MAX_BLOCK, 1 << (self.columns - 1).bit_length())

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", -(-self.columns // self.block), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=max(1, self.block // 256), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{self.columns} * T" if self.is_quantized else "0"

    @property
    def bytes(self) -> str:
        return f"{self.columns * (self.table.numpy.itemsize + self.out.numpy.itemsize)} * T"

    def source(self) -> str:
        return render("embed.py.j2", spec=self)

    def __str__(self) -> str:
        return f"embedding of {self.rows} rows of {self.columns} {self.table} as {self.out}"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of an `embed` or `quantized_embed` and, possibly, a cast of its result; else why not."""
    lookup, *others = group.ops
    if not is_op(lookup, embed, quantized_embed) or [op_of(op) for op in others] not in ([], [cast]):
        return f"takes an embed and a cast, not {', '.join(op.name for op in group.ops)}"
    ids, table, *scale = lookup.operands
    attrs = embed.attrs_of(lookup)
    if attrs["layout"] != "row" or not has_row_scales(lookup):
        return f"the table must lie in rows with scales per row; here {type_of(table)}, {attrs['layout']}"
    (result,) = group.results.values()
    if not type_of(result).dtype.is_float:
        return f"the result must be of floats; here {type_of(result)}"
    spec = EmbedSpec(
        attrs["n"], static(type_of(table).shape[1]), type_of(table).dtype, type_of(result).dtype, target.has_tma
    )
    inputs = tuple(input_slot(group, value) for value in (ids, table, *scale))
    return one_launch(spec, (*inputs, result_slot(group, result)), {"T": str(product(type_of(ids).shape))})
