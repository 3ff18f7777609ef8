"""A linear layer of few tokens on Hopper's tensor cores, W streaming through a ring in shared memory; in Gluon.

The product is `skinny_gemm`'s: out^T = W @ x^T, tokens padded to `block_t`, splits added by the last block. What
differs is when W is asked for. Every block fills its ring with W before it waits for the previous kernel, and calls
more of it into L2: memory never rests between kernels, nor while a small kernel runs. For that a block must fit a
multiprocessor beside blocks of the previous kernel, so a ring has at most half of the shared memory.

Plain Triton cannot say this: its loops are pipelined as a whole, so that W and x are asked for together.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Operand, Options, Pointer, TensorMap
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.mixed_runs import Run, length_of, runs_of
from warploom.codegen.cuda.kernels.tiles import RingTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType
from warploom.runtime.expr import Expr

FIRST_FOR_WARP_GROUPS = 64  # tokens


@dataclass(frozen=True, slots=True)
class RingSpec(OfTokens):
    """out [T, width] for x [T, k]; partials f32 [splits, tiles, part], counters [tiles]."""

    problem: LinearProblem
    tile: RingTile

    @property
    def name(self) -> str:
        t = self.tile
        split = f"_k{t.splits}" if t.splits > 1 else ""
        return f"{self.problem.name}_ring_{t.block_n}x{t.block_t}x{t.block_k}{split}_w{t.num_warps}s{t.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Those of the problem, then what `extra_operands` names."""
        p, t = self.problem, self.tile
        bits = p.weight.bits
        stored = (
            p.k * bits // (8 * p.weight.stored.numpy.itemsize),
            t.block_k * bits // (8 * p.weight.stored.numpy.itemsize),
        )
        maps = {
            "x": _tile("x", p.x, ("T", p.k), (t.block_t, t.block_k)),
            "w": _tile("w", p.weight.stored, (p.n, stored[0]), (t.block_n, stored[1])),
        }
        dtypes = {"partials": DType.F32, "counters": DType.I32}
        extra = (Pointer(name, dtypes[name]) for name in self.extra_operands)
        return (*(maps.get(operand.name, operand) for operand in p.operands), *extra)

    @property
    def extra_operands(self) -> tuple[str, ...]:
        """What the splits of a tile share."""
        return ("partials", "counters") if self.tile.splits > 1 else ()

    @property
    def parts(self) -> int:
        """Products that a block computes: of gate and up, or one."""
        return 2 if self.problem.epilogue == "swiglu" else 1

    @property
    def tiles_n(self) -> int:
        """Blocks that cover the outputs."""
        return -(-self.problem.width // self.tile.block_n)

    @property
    def grid(self) -> tuple[int, str, int]:
        t = self.tile
        return self.tiles_n, f"(T + {t.block_t - 1}) // {t.block_t}", t.splits

    @property
    def pieces(self) -> int:
        """Pieces of `block_k` columns."""
        return -(-self.problem.k // self.tile.block_k)

    @property
    def per_split(self) -> int:
        """Pieces of one split."""
        return -(-self.pieces // self.tile.splits)

    @property
    def stage_bytes(self) -> int:
        """What one stage of the ring holds."""
        t = self.tile
        weight = self.parts * t.block_n * self.problem.weight.bits // 8
        return t.block_k * (weight + t.block_t * self.problem.x.numpy.itemsize)

    @property
    def by_warp_groups(self) -> bool:
        """Whether warp groups multiply; single warps take x from registers, for few tokens of mixed products."""
        return self.problem.is_plain or self.tile.block_t >= FIRST_FOR_WARP_GROUPS

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.problem.k // self.problem.weight.groups

    @property
    def run(self) -> int:
        """Columns of a mixed product."""
        return length_of(self.problem)

    @property
    def runs(self) -> list[Run]:
        """The mixed products of a stage."""
        return runs_of(self.problem, self.tile.block_k)

    @property
    def turn(self) -> int:
        """How many pieces later than its neighbour a block begins."""
        return 5

    @property
    def part(self) -> int:
        """Floats that a block leaves."""
        return self.parts * self.tile.block_n * self.tile.block_t

    def tiles(self, tokens: int) -> int:
        """Tiles of up to `tokens` tokens; there are as many counters, and `splits` parts for each."""
        return self.tiles_n * -(-tokens // self.tile.block_t)

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=True)

    def source(self) -> str:
        return render("ring_gemm.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name} of up to {t.block_t} tokens a block, {t.block_n} outputs, {t.num_stages} stages"


def _tile(name: str, dtype: DType, shape: tuple[Expr, ...], block: tuple[int, int]) -> TensorMap:
    """A matrix that comes in tiles, laid out in shared memory as tensor cores read them."""
    size = dtype.numpy.itemsize
    swizzle = min(128, block[1] * size)
    layout = f"NVMMASharedLayout(swizzle_byte_width={swizzle},element_bitwidth={8 * size},rank=2)"
    return TensorMap(name, dtype, shape, block, layout)
