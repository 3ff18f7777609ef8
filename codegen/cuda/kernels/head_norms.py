"""RMSNorms of columns of one matrix, in one launch: of the heads of q and of k, where a projection left them.

A block holds a few heads of a token in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.columns import Columns, columns_of
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of

KIND = "head_norms"
ELEMENTS = 2048  # of a block
WIDEST = 8192


@dataclass(frozen=True, slots=True)
class Part:
    """Heads side by side from column `start` on; dtype of their gain."""

    start: int
    heads: int
    gain: DType


@dataclass(frozen=True, slots=True)
class HeadNormsSpec:
    """out{i} [T, heads of part i, size] = x / sqrt(mean(x^2) + eps) * gain{i}, x in matrix [T, stride]."""

    parts: tuple[Part, ...]
    stride: int
    size: int
    x: DType
    eps: float
    pdl: bool

    @property
    def name(self) -> str:
        parts = "_".join(f"{part.heads}at{part.start}_{part.gain}" for part in self.parts)
        eps = identifier(f"{self.eps:g}")
        return f"head_norms_{self.x}_{self.stride}_{parts}_x{self.size}_{eps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        gains = (Pointer(f"gain{i}", part.gain) for i, part in enumerate(self.parts))
        outs = (Pointer(f"out{i}", self.x) for i in range(len(self.parts)))
        return (Pointer("matrix", self.x), *gains, *outs)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def heads(self) -> int:
        """Of all parts."""
        return sum(part.heads for part in self.parts)

    @property
    def block(self) -> int:
        """Columns of a head, padded to a power of two."""
        return next_power_of_2(self.size)

    @property
    def rows(self) -> int:
        """Heads of a block."""
        return max(1, min(ELEMENTS // self.block, next_power_of_2(self.heads)))

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", -(-self.heads // self.rows), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.rows * self.block, 16, 16), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{4 * self.heads * self.size} * T"

    @property
    def bytes(self) -> str:
        return f"{2 * self.heads * self.size * self.x.numpy.itemsize} * T"

    def source(self) -> str:
        return render("head_norms.py.j2", spec=self)

    def __str__(self) -> str:
        return f"RMSNorms of {' and '.join(str(part.heads) for part in self.parts)} heads of {self.size} {self.x}"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of norms of columns of one matrix, or why there is none."""
    norms = [op for op in group.ops if is_op(op, rms_norm)]
    if any(not is_op(op, rms_norm, reshape, slice_axis) for op in group.ops) or len(group.results) != len(norms):
        return f"takes slices, views and norms of them, not {', '.join(op.name for op in group.ops)}"
    sources = [columns_of(norm.operands[0]) for norm in norms]
    refusals = [source for source in sources if isinstance(source, str)]
    if refusals:
        return refusals[0]
    columns = [source for source in sources if isinstance(source, Columns)]
    shape = type_of(norms[0].operands[0]).shape
    if any(other.matrix != columns[0].matrix for other in columns) or not _alike(norms):
        return "the norms are not of heads of one size in one matrix"
    if not isinstance(shape[-1], int) or shape[-1] > WIDEST:
        return f"a head must have at most {WIDEST} columns; here {shape[-1]}"
    parts = tuple(
        Part(
            found.start,
            static(product(type_of(norm.operands[0]).shape[1:-1])),
            type_of(norm.operands[1]).dtype,
        )
        for found, norm in zip(columns, norms, strict=True)
    )
    matrix = columns[0].matrix
    spec = HeadNormsSpec(
        parts, columns[0].stride, shape[-1], type_of(matrix).dtype, rms_norm.attrs_of(norms[0])["eps"], target.has_tma
    )
    gains = (input_slot(group, norm.operands[1]) for norm in norms)
    outs = (result_slot(group, norm.results[0]) for norm in norms)
    return one_launch(spec, (input_slot(group, matrix), *gains, *outs), {"T": str(shape[0])})


def _alike(norms: list[mlir.Operation]) -> bool:
    """Whether the heads of all norms have one size, dtype and eps."""
    types = [type_of(norm.operands[0]) for norm in norms]
    return (
        len(
            {(t.shape[0], t.shape[-1], t.dtype, rms_norm.attrs_of(n)["eps"]) for t, n in zip(types, norms, strict=True)}
        )
        == 1
    )
