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
from warploom.codegen.cuda.kernels.linear_problem import TMA_BYTES, LinearProblem
from warploom.codegen.cuda.kernels.mixed_runs import Run, length_of, runs_of
from warploom.codegen.cuda.kernels.tiles import RingTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType
from warploom.runtime.expr import Expr

FIRST_FOR_WARP_GROUPS = 64  # tokens
SHORTEST = 32  # columns of a mixed product: what a warp multiplies at once


def rings(problem: LinearProblem) -> bool:
    """Whether rows come by TMA, and tensor cores find whole products in a group of columns; x is prepared."""
    return problem.operands_by_tma and (problem.is_plain or length_of(problem) >= SHORTEST)


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
        if self.sides_by_tma:
            size = (p.n, p.weight.groups), (t.block_n, self.sides)
            maps |= {name: _tile(name, p.weight.scale, *size, swizzled=False) for name in ("scale", "offset")}
        dtypes = {"partials": DType.F32, "counters": DType.I32}
        extra = (Pointer(name, dtypes[name]) for name in self.extra_operands)
        return (*(maps.get(operand.name, operand) for operand in p.operands), *extra)

    @property
    def extra_operands(self) -> tuple[str, ...]:
        """What the splits of a tile share."""
        return ("partials", "counters") if self.tile.splits > 1 else ()

    @property
    def parts(self) -> int:
        """Products that a block computes."""
        return len(self.problem.parts)

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
        return t.block_k * (weight + t.block_t * self.problem.x.numpy.itemsize) + self.side_bytes

    @property
    def by_row(self) -> bool:
        """Whether all numbers of a row share a scale, which then multiplies the whole sum."""
        return self.problem.weight.groups == 1 and not self.problem.weight.offset

    @property
    def sides(self) -> int:
        """Scales of a row that belong to a piece; 0: groups are longer."""
        return self.tile.block_k // self.group

    @property
    def sides_by_tma(self) -> bool:
        """Whether scales and offsets come through the ring; else by address, when their piece is multiplied."""
        weight = self.problem.weight
        if self.problem.is_plain or self.by_row or self.sides * self.group != self.tile.block_k:
            return False
        size = weight.scale.numpy.itemsize  # TMA takes what begins at multiples of TMA_BYTES, and is as long
        return weight.groups * size % TMA_BYTES == 0 and self.sides * size % TMA_BYTES == 0

    @property
    def side_bytes(self) -> int:
        """What a stage holds of scales and offsets."""
        kinds = len(self.problem.weight.operands) - 1
        size = self.sides * self.problem.weight.scale.numpy.itemsize if self.sides_by_tma else 0
        return kinds * self.parts * self.tile.block_n * size

    @property
    def scales_numbers(self) -> bool:
        """Whether numbers are scaled before they are multiplied: of so many tokens there are more sums to scale."""
        return self.by_warp_groups and not self.problem.is_plain and not self.by_row

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
    def registers(self) -> int:
        """About what a thread needs: sums, a product of its own if its scale waits, numbers of W, scales, and x."""
        t, threads = self.tile, 32 * self.tile.num_warps
        sums = t.block_n * t.block_t // threads
        scaled_last = self.problem.is_plain or self.by_row or self.scales_numbers
        waiting = 0 if scaled_last else 4 if self.problem.weight.offset else 1  # or sums of x with it
        if self.problem.is_plain:
            return self.parts * sums
        columns = self.run * (2 if self.problem.weight.dtype is DType.I4 else 1)
        x = 0 if self.by_warp_groups else columns * t.block_t // 64
        kinds = 0 if self.by_row or self.sides_by_tma else len(self.problem.weight.operands) - 1
        sides = kinds * max(1, self.sides) * self.parts * t.block_n * 4 // threads
        return (self.parts + waiting) * sums + columns * t.block_n // (2 * threads) + sides + x

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=True)

    def source(self) -> str:
        return render("ring_gemm.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name} of up to {t.block_t} tokens a block, {t.block_n} outputs, {t.num_stages} stages"


def _tile(name: str, dtype: DType, shape: tuple[Expr, ...], block: tuple[int, int], swizzled: bool = True) -> TensorMap:
    """A matrix that comes in tiles, laid out in shared memory as tensor cores read them, or row by row."""
    size = dtype.numpy.itemsize
    swizzle = min(128, block[1] * size) if swizzled else 0
    layout = f"NVMMASharedLayout(swizzle_byte_width={swizzle},element_bitwidth={8 * size},rank=2)"
    return TensorMap(name, dtype, shape, block, layout)
