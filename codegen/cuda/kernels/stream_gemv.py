"""A linear layer of one token in few, long-lived blocks: x stays in registers, rows of W stream past it.

`gemv` starts a block for every few rows, and each of those reads x again. That is as fast as memory for weights of
bf16; of fewer bits there is less time for each number, and what x costs (its norm, its rounding to f8, its conversion)
must be paid once. So here a block keeps its part of a multiprocessor, prepares all of x, and takes rows until there are
none: rows `ahead` rounds before they are needed, the first of them before the previous kernel is waited for.

A thread's unit of W is 16 bytes of a row. Sums of such a chunk stay in a thread, so that the scale of a group of
columns is applied to sums, not to numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import StreamTile
from warploom.codegen.cuda.kernels.token_work import OfOneToken
from warploom.codegen.cuda.render import render
from warploom.ir.layouts import split_block
from warploom.ir.types import DType

CHUNK = 16  # bytes: what a thread loads at once


def streams(problem: LinearProblem) -> bool:
    """Whether rows of W are whole chunks, and chunks lie in one group of columns."""
    weight = problem.weight
    if weight.is_mxfp4 or problem.k * weight.bits % (8 * CHUNK):
        return False
    if weight.dtype is DType.I4 and split_block(problem.k) % (2 * CHUNK):
        return False
    return not weight.groups or problem.k // weight.groups % (8 * CHUNK // max(8, weight.bits)) == 0


@dataclass(frozen=True, slots=True)
class StreamSpec(OfOneToken):
    """out [1, width] for x [1, k]."""

    problem: LinearProblem
    tile: StreamTile
    pdl: bool

    @property
    def name(self) -> str:
        t, rounded = self.tile, "_rounded" if self.problem.rounded else ""
        return f"{self.problem.name}{rounded}_stream_{t.block_n}_a{t.ahead}_b{t.blocks}_w{t.num_warps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return self.problem.operands

    @property
    def grid(self) -> tuple[int, int, int]:
        return min(self.tile.blocks, self.steps), 1, 1

    @property
    def steps(self) -> int:
        """Runs of `block_n` outputs."""
        return -(-self.problem.width // self.tile.block_n)

    @property
    def rounds(self) -> int:
        """Steps that the busiest block takes."""
        return -(-self.steps // self.grid[0])

    @property
    def ahead(self) -> int:
        """Rounds in flight."""
        return min(self.tile.ahead, self.rounds)

    @property
    def chunks(self) -> int:
        """Of a row."""
        return self.problem.k * self.problem.weight.bits // (8 * CHUNK)

    @property
    def piece(self) -> int:
        """Chunks that are loaded at once: no more than there are threads."""
        return min(next_power_of_2(self.chunks), 32 * self.tile.num_warps)

    @property
    def pieces(self) -> int:
        """Of a row."""
        return -(-self.chunks // self.piece)

    @property
    def half(self) -> int:
        """Columns between the two numbers of a byte; 0: a byte is no more than one number."""
        return split_block(self.problem.k) // 2 if self.problem.weight.dtype is DType.I4 else 0

    @property
    def numbers(self) -> int:
        """Of a word of 32 bits."""
        return 32 // self.problem.weight.bits

    @property
    def halves(self) -> list[str]:
        """Names of the sums of a word: of the low and the high numbers of its bytes, or of all."""
        return ["low", "high"] if self.half else ["all"]

    def numbers_of_x(self, piece: int) -> list[str]:
        """Names of what the first, the second... number of each word of a piece meets."""
        return [f"x_{number}_{piece}" for number in range(self.numbers)]

    def column(self, word: str, number: int) -> str:
        """Expression of the column that number `number` of a word of a row meets."""
        if not self.half:
            return f"(({word}) * {self.numbers} + {number})"
        within = number % 4 + (self.half if number >= 4 else 0)
        return f"(({word}) * 4 // {self.half} * {2 * self.half} + ({word}) * 4 % {self.half} + {within})"

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=self.pdl)

    def source(self) -> str:
        return render("stream_gemv.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        return f"{self.problem.name} of one token, {self.grid[0]} blocks of {self.tile.block_n} outputs at a time"
