"""Any group of core ops around one root, or several elementwise ones of one shape: pointwise and shape ops, reductions,
scans, sorts, contractions, scatter.

The index maps are emitted inline (see `codegen/cpu/loops`); tiles are blocks of result elements. Every element is
computed by the same operations in the same order whatever the symbolic dims, the tiles and the threads are.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match, Slot
from warploom.codegen.cpu.loops.emit import emit_program, tiles_of
from warploom.codegen.cpu.loops.rows import WORD
from warploom.codegen.loop_program import Program, program_of
from warploom.ir.dims import DimLike, product
from warploom.ir.function import Function
from warploom.ir.types import TensorType

KIND = "loops"
_MOVES = frozenset({"slice", "gather"})  # ops that read no more of their first operand than they return


@dataclass(frozen=True, slots=True)
class LoopsSpec:
    """The kernel of a program; its arguments are the inputs, then the returned values."""

    program: Program

    def __str__(self) -> str:
        return str(self.program)

    @property
    def name(self) -> str:
        """`loops_<root>_<digest of the program>`."""
        return f"loops_{self.program.root.op}_{self.program.digest}"

    @property
    def dims(self) -> tuple[str, ...]:
        """The symbols of the program."""
        return self.program.dims

    @property
    def tiles(self) -> str:
        """Blocks of rows and columns; see `schedule`."""
        return tiles_of(self.program)

    @property
    def flops(self) -> str:
        """See `Program.flops`."""
        return str(self.program.flops)

    @property
    def bytes(self) -> str:
        """Every input once, or what is gathered or sliced of it, and every result."""
        total: DimLike = 0
        for position, type_ in enumerate(self.program.inputs):
            total = total + _bytes_read(self.program, position, type_)
        for type_ in self.program.results:
            total = total + _bytes(type_)
        return str(total)

    @property
    def scratch_bytes(self) -> int:
        """The best so far of `top_k`, values and indices."""
        root = self.program.root
        return 2 * WORD * int(root.attrs["k"]) if root.op == "top_k" else 0

    def emit(self, library: Library) -> None:
        """Define the kernel."""
        emit_program(library, self.name, self.program)


def match(group: Function) -> Match | str:
    """The kernel for a group of core ops whose roots every other op can be inlined into; else the reason."""
    program = program_of(group)
    if isinstance(program, str):
        return program
    inputs = tuple(Slot("input", i) for i in range(len(program.inputs)))
    results = tuple(Slot("result", i) for i in range(len(program.results)))
    return Match(LoopsSpec(program), inputs + results, {name: name for name in program.dims})


def _bytes_read(program: Program, position: int, type_: TensorType) -> DimLike:
    users = [node for node in program.ops if position in node.operands]
    if not all(node.op in _MOVES and node.operands.index(position) == 0 for node in users):
        return _bytes(type_)
    total: DimLike = 0
    for node in users:
        total = total + _bytes(node.type)
    return total


def _bytes(type_: TensorType) -> DimLike:
    return product(type_.shape) * type_.dtype.numpy.itemsize
