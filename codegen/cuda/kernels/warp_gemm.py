"""A linear layer of many tokens on Hopper: some warps bring tiles, others multiply them; in Gluon.

One warp brings x and W by TMA through a ring in shared memory, and goes on with the next tile of results while two
groups of four warps, 64 tokens x `block_n` each, still store theirs (CUTLASS's "cooperative" schedule). Results leave
by TMA, from shared memory of their own, into which the residual came while the product was computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Operand, Options, TensorMap
from warploom.codegen.cuda.kernels.linear_problem import TMA_BYTES, LinearProblem
from warploom.codegen.cuda.kernels.tiles import WarpTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

BLOCK_T = 128  # tokens of a tile
LINE_BYTES = 128  # of a swizzled line of shared memory


@dataclass(frozen=True, slots=True)
class WarpGemmSpec(OfTokens):
    """out [T, width] for x [T, k], both bf16 or f8; the norm, if any, is done before."""

    problem: LinearProblem
    tile: WarpTile

    @property
    def name(self) -> str:
        t = self.tile
        return f"{self.problem.name}_warps_{BLOCK_T}x{t.block_n}g{t.group}_p{t.blocks}s{t.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        p = self.problem
        lines = (p.n, p.k), (self.block_out if self.is_swiglu else self.tile.block_n, self.block_k)
        maps = {
            "x": _tile("x", p.x, ("T", p.k), (BLOCK_T, self.block_k)),
            "w": _tile("w", p.weight.dtype, *lines),
            "residual": _tile("residual", p.out, ("T", p.width), (BLOCK_T // 2, self.block_out)),
            "out": _tile("out", p.out, ("T", p.width), (BLOCK_T // 2, self.block_out)),
        }
        return tuple(maps.get(operand.name, operand) for operand in p.operands)

    @property
    def is_swiglu(self) -> bool:
        """Whether rows of W are of gate and of up."""
        return self.problem.epilogue == "swiglu"

    @property
    def block_k(self) -> int:
        """Columns of a stage: a swizzled line."""
        return LINE_BYTES // self.problem.x.numpy.itemsize

    @property
    def block_out(self) -> int:
        """Columns of the result that a tile computes."""
        return self.tile.block_n // 2 if self.is_swiglu else self.tile.block_n

    @property
    def stage_bytes(self) -> int:
        """What one stage of the ring holds."""
        return (BLOCK_T + self.tile.block_n) * LINE_BYTES

    @property
    def tiles_n(self) -> int:
        """Tiles that cover the outputs."""
        return -(-self.problem.width // self.block_out)

    @property
    def pieces(self) -> int:
        """Stages that the columns of a tile take."""
        return -(-self.problem.k // self.block_k)

    @property
    def early(self) -> int:
        """Stages whose W comes before the previous kernel is done; one of a tile is left for later."""
        return min(self.tile.num_stages, self.pieces - 1)

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"min({self.tile.blocks}, (T + {BLOCK_T - 1}) // {BLOCK_T} * {self.tiles_n})", 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=True)

    def source(self) -> str:
        return render("warp_gemm.py.j2", spec=self, p=self.problem, t=self.tile, block_t=BLOCK_T)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name}, tiles of {BLOCK_T} tokens x {t.block_n} weights' rows, {t.num_stages} stages"


def warps_take(problem: LinearProblem) -> bool:
    """Whether this kernel computes a problem, norm and rounding being done before."""
    p = problem.prepared() if problem.rounded or problem.norm is not None else problem
    return p.is_plain and p.operands_by_tma and p.out is DType.BF16 and 2 * p.width % TMA_BYTES == 0


def _tile(name: str, dtype: DType, shape: tuple[int | str, ...], block: tuple[int, int]) -> TensorMap:
    """A matrix that comes or goes in tiles of swizzled lines."""
    bits = 8 * dtype.numpy.itemsize
    layout = f"NVMMASharedLayout(swizzle_byte_width={LINE_BYTES},element_bitwidth={bits},rank=2)"
    return TensorMap(name, dtype, shape, block, layout)
