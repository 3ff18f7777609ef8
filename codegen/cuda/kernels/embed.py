"""Embedding lookup from a table in rows, with the cast that may follow it."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.kernels.linear_group import read_weight
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.layouts import columns_of, split_block
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import embed
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.rewrite import is_op
from warploom.ir.types import FLOATS as ANY_FLOATS
from warploom.ir.types import DType, type_of

KIND = "embed"
MAX_BLOCK = 1024
FLOATS = tuple(sorted(ANY_FLOATS))


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """Row ids[t] of a table [rows, columns] as out [T, columns]; ids outside are clamped."""

    rows: int
    columns: int
    weight: Weight
    out: DType
    pdl: bool

    @property
    def name(self) -> str:
        numbers = self.weight.name or str(self.weight.dtype)
        return f"embed_{numbers}_{self.rows}x{self.columns}_{self.out}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return Pointer("ids", DType.I32), *self.weight.operands, Pointer("out", self.out)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def block(self) -> int:
        """Numbers in memory that a block reads: columns, or pairs of them."""
        return min(MAX_BLOCK, next_power_of_2(self.row))

    @property
    def row(self) -> int:
        """Numbers in memory of a row."""
        return self.columns // 2 if self.half else self.columns

    @property
    def half(self) -> int:
        """Columns between the two numbers of a byte; 0: a byte is one number."""
        return split_block(self.columns) // 2 if self.weight.dtype is DType.I4 else 0

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", -(-self.row // self.block), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block, 8, 4), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{self.columns} * T" if self.weight.groups else "0"

    @property
    def bytes(self) -> str:
        return f"{self.weight.bytes(1, self.columns) + self.columns * self.out.numpy.itemsize} * T"

    def source(self) -> str:
        return render("embed.py.j2", spec=self)

    def __str__(self) -> str:
        numbers = self.weight.name or self.weight.dtype
        return f"embedding of {self.rows} rows of {self.columns} {numbers} as {self.out}"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of an `embed` or `quantized_embed` and, possibly, a cast of its result; else why not."""
    lookup, *others = group.ops
    if not is_op(lookup, embed, quantized_embed) or [op_of(op) for op in others] not in ([], [cast]):
        return f"takes an embed and a cast, not {', '.join(op.name for op in group.ops)}"
    ids, *weights = lookup.operands
    weight = read_weight(lookup, FLOATS)
    if isinstance(weight, str):
        return weight
    reason = target.refuses(weight.dtype)
    if reason is not None:
        return reason
    (result,) = group.results.values()
    if not type_of(result).dtype.is_float:
        return f"the result must be of floats; here {type_of(result)}"
    columns = columns_of([static(d) for d in type_of(weights[0]).shape], embed.attrs_of(lookup)["layout"])
    spec = EmbedSpec(embed.attrs_of(lookup)["n"], columns, weight, type_of(result).dtype, target.has_tma)
    inputs = tuple(input_slot(group, value) for value in (ids, *weights))
    return one_launch(spec, (*inputs, result_slot(group, result)), {"T": str(product(type_of(ids).shape))})
