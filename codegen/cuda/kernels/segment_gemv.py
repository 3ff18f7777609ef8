"""A linear layer of one token and quantized weights on Hopper's tensor cores: rows of W in eight segments; in Gluon.

Few bits leave so little time for each number that CUDA cores, which must make it an f32 and multiply it, can be slower
than memory. Tensor cores take 16-bit floats, made of words of several numbers in about one instruction a number, but
they multiply 16 rows with 8 columns at least. So a row is cut into pieces of eight segments, which are rows to the
tensor cores, and x into eight segments, which are columns: of the 8 x 8 products of segments the diagonal is wanted.
W goes from memory to the registers that tensor cores read, `ahead` pieces before it is needed, the first of it before
the previous kernel is waited for. A warp has rows of its own, so that warps never wait for each other.

As in `stream_gemv`, blocks are few and keep what they make of x: normed, rounded to f8 where the meaning says so (f16
holds f8, and its products, exactly), and in shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import SegmentTile
from warploom.codegen.cuda.kernels.token_work import OfOneToken
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

SEGMENTS = 8  # of a piece of a row
BYTES = 64  # of a segment
ROWS_OF_WARP = 2
FOUR = ["low_0", "low_1", "high_0", "high_1"]  # sums of a segment whose low and high numbers are of two groups each


def segments(problem: LinearProblem) -> bool:
    """Whether rows are whole segments, and columns that are multiplied at once are of one group."""
    weight = problem.weight
    if weight.dtype is DType.BF16 or weight.is_mxfp4 or weight.offset or problem.x is DType.F8:
        return False
    group, four = problem.k // weight.groups, weight.bits == 4 and weight.scale.numpy.itemsize == 2
    return problem.k * weight.bits % (8 * SEGMENTS * BYTES) == 0 and (group % 64 == 0 or (four and group == 32))


@dataclass(frozen=True, slots=True)
class SegmentSpec(OfOneToken):
    """out [1, width] for x [1, k]."""

    problem: LinearProblem
    tile: SegmentTile

    @property
    def name(self) -> str:
        t = self.tile
        rounded = "_rounded" if self.problem.rounded else ""
        return f"{self.problem.name}{rounded}_segment_a{t.ahead}_b{t.blocks}_w{t.num_warps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return self.problem.operands

    @property
    def rows(self) -> int:
        """Outputs of a block at a time."""
        return ROWS_OF_WARP * self.tile.num_warps

    @property
    def grid(self) -> tuple[int, int, int]:
        return min(self.tile.blocks, self.steps), 1, 1

    @property
    def steps(self) -> int:
        """Runs of `rows` outputs."""
        return -(-self.problem.width // self.rows)

    @property
    def rounds(self) -> int:
        """Steps that the busiest block takes."""
        return -(-self.steps // self.grid[0])

    @property
    def ahead(self) -> int:
        """Pieces in flight."""
        return min(self.tile.ahead, self.rounds * self.pieces)

    @property
    def block(self) -> int:
        """Columns of a segment; of four bits, a block of `row4`."""
        return 8 * BYTES // self.problem.weight.bits

    @property
    def pieces(self) -> int:
        """Of a row."""
        return self.problem.k // (SEGMENTS * self.block)

    @property
    def products(self) -> int:
        """Pieces that a warp multiplies."""
        return self.rounds * self.pieces * len(self.problem.parts)

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.problem.k // self.problem.weight.groups

    @property
    def scaled(self) -> list[str]:
        """Names of the sums of a segment that have scales of their own; none if all of a row share theirs."""
        if self.problem.weight.groups == 1:
            return []
        return ["all"] if self.group % self.block == 0 else FOUR if self.group == 32 else ["low", "high"]

    @property
    def run(self) -> int:
        """Bytes of a segment that are multiplied at once: their low numbers are of one group, and their high ones."""
        return BYTES // 2 if self.scaled == FOUR else BYTES

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=True)

    def source(self) -> str:
        return render("segment_gemv.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        return f"{self.problem.name} of one token, {self.grid[0]} blocks of {self.rows} outputs at a time"
