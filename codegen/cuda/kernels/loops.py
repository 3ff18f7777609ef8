"""Any group of core ops around one root, or several elementwise ones of one shape: pointwise and shape ops, reductions,
contractions, scatters, short rows.

Producers are inlined by their index maps (see `loop_elements`). Every element is computed by the same operations in the
same order whatever the symbolic dims are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Slot, Step, Variant
from warploom.codegen.cuda.kernels.loop_bodies import (
    BLOCK,
    flat,
    fold_rows,
    fold_source,
    map_source,
    row_block,
    row_source,
    scatter_source,
)
from warploom.codegen.cuda.kernels.loop_elements import MAX_TABLE
from warploom.codegen.loop_program import FOLDS, ROWS, Program, program_of
from warploom.ir.dims import DimLike, product, resolve
from warploom.ir.function import Function
from warploom.ir.types import TensorType, type_of

KIND = "loops"
MAX_ROW = 8192  # elements of a row that a block holds in registers
MAX_TOP = 64
Part = Literal["all", "copy", "updates"]


@dataclass(frozen=True, slots=True)
class LoopsSpec:
    """The kernel of a program; its operands are the inputs, then the returned values.

    Attributes:
        part: of a scatter: the copy of its operand, and the updates over it; else all.
        wide: positions may exceed 32 bits.
    """

    program: Program
    part: Part
    wide: bool
    pdl: bool

    @property
    def name(self) -> str:
        """`loops_<root>_<digest of the program>`."""
        part = "" if self.part == "all" else f"_{self.part}"
        return f"loops_{self.program.root.op}_{self.program.digest}{part}{'_wide' if self.wide else ''}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        inputs = (Pointer(f"in{i}", type_.dtype) for i, type_ in enumerate(self.program.inputs))
        results = (Pointer(f"out{i}", type_.dtype) for i, type_ in enumerate(self.program.results))
        return (*inputs, *results)

    @property
    def dims(self) -> tuple[str, ...]:
        return self.program.dims

    @property
    def grid(self) -> tuple[str, int, int]:
        root = self.program.root
        if self.part == "updates":
            return f"({self._size(root.operands[2])} + {BLOCK - 1}) // {BLOCK}", 1, 1
        if root.op in ROWS:
            return str(product(self.program.nodes[root.operands[0]].type.shape[:-1])), 1, 1
        block = fold_rows(self.program) if root.op in FOLDS else BLOCK
        return f"({product(root.type.shape)} + {block - 1}) // {block}", 1, 1

    @property
    def options(self) -> Options:
        if self.program.root.op in ROWS:
            return Options(num_warps=warps_for(row_block(self.program), 8, 8), pdl=self.pdl)
        return Options(num_warps=4, pdl=self.pdl)

    @property
    def flops(self) -> str:
        """See `Program.flops`."""
        return str(self.program.flops)

    @property
    def bytes(self) -> str:
        """Every input that is read from its start to its end, and every result."""
        read = {operand for node in self.program.ops if node.op not in ("slice", "gather") for operand in node.operands}
        inputs = [type_ for position, type_ in enumerate(self.program.inputs) if position in read]
        total: DimLike = 0
        for type_ in (*inputs, *self.program.results):
            total = total + product(type_.shape) * type_.dtype.numpy.itemsize
        return str(total)

    def source(self) -> str:
        program = flat(self.program)
        match program.root.op:
            case op if op in FOLDS:
                return fold_source(self, program)
            case op if op in ROWS:
                return row_source(self, program)
            case "scatter":
                if self.part == "updates":
                    return scatter_source(self, program)
                return map_source(self, program, program.root.operands[:1])
            case _:
                return map_source(self, program, program.stored)

    def _size(self, position: int) -> DimLike:
        return product(self.program.nodes[position].type.shape)

    def __str__(self) -> str:
        return str(self.program)


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels for a group of core ops whose roots every other op can be inlined into; else the reason."""
    program = program_of(group)
    if isinstance(program, str):
        return program
    refusal = _refusal(program)
    if refusal is not None:
        return refusal
    limits = {name: known.max for name, known in group.dims.items()}
    values = [*group.inputs.values(), *(result for op in group.ops for result in op.results)]
    wide = any(_count(type_of(value), limits) >= 1 << 31 for value in values)
    parts: tuple[Part, ...] = ("copy", "updates") if program.root.op == "scatter" else ("all",)
    inputs = tuple(Slot("input", i) for i in range(len(program.inputs)))
    results = tuple(Slot("result", i) for i in range(len(program.results)))
    dims = {name: name for name in program.dims}
    steps = tuple(Step(LoopsSpec(program, part, wide, target.has_tma), inputs + results, dims) for part in parts)
    return Match((Variant(steps),))


def _refusal(program: Program) -> str | None:
    """What of a program has no source."""
    root = program.root
    if root.op in ROWS:
        length = program.nodes[root.operands[0]].type.shape[-1]
        if not isinstance(length, int) or length > MAX_ROW:
            return f"{root.op} holds a row in registers: it must be static, at most {MAX_ROW}; here {length}"
        if root.attrs.get("k", 0) > MAX_TOP:
            return f"top_k searches k times: k must be at most {MAX_TOP}; here {root.attrs['k']}"
    constants = [node.type for node in program.ops if node.op == "constant"]
    large = [type_ for type_ in constants if math.prod(type_.resolve({})) > MAX_TABLE]
    return f"a constant must have at most {MAX_TABLE} elements; here {large[0]}" if large else None


def _count(type_: TensorType, limits: dict[str, int]) -> int:
    return resolve(product(type_.shape), limits)
