"""A linear layer of many tokens: tensor cores, limited by them.

out = x @ W^T in tiles. With tensor maps (sm_90 on) operands come by TMA and wait in shared memory, pipelined over the
columns; a persistent grid overlaps the end of one tile with the start of the next (triton tutorial 09,
"persistent matmul"). Tiles are numbered so that `group` blocks of tokens meet the same W while it is in L2.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Operand, Options, TensorMap
from warploom.codegen.cuda.kernels.linear_problem import TMA_BYTES, LinearProblem
from warploom.codegen.cuda.kernels.tiles import GemmTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class GemmSpec(OfTokens):
    """out [T, width] for x [T, k]; the norm, if any, is done before."""

    problem: LinearProblem
    tile: GemmTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        shape = f"{t.block_t}x{t.block_n}x{t.block_k}g{t.group}"
        kind = f"{'_tma' if t.tma else ''}{'_h' if t.halves else ''}{f'_p{t.blocks}' if t.blocks else ''}"
        return f"{self.problem.name}_gemm_{shape}{kind}_w{t.num_warps}s{t.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        p, t = self.problem, self.tile
        if not t.tma:
            return p.operands
        if p.epilogue == "swiglu":  # one copy brings rows of gate and of up
            w = TensorMap("w", p.weight.dtype, (2, p.width, p.k), (2, self.block_out, t.block_k))
        else:
            w = TensorMap("w", p.weight.dtype, (p.n, p.k), (t.block_n, t.block_k))
        maps = {
            "x": TensorMap("x", p.x, ("T", p.k), (t.block_t, t.block_k)),
            "w": w,
        }
        if self.out_by_tma:
            stored = t.block_t, self.block_out // (2 if t.halves else 1)
            maps["out"] = TensorMap("out", p.out, ("T", p.width), stored)
        return tuple(maps.get(operand.name, operand) for operand in p.operands)

    @property
    def out_by_tma(self) -> bool:
        """Whether the result is stored by TMA: not f32, which is too large for shared memory, nor unaligned rows."""
        p = self.problem
        return self.tile.tma and p.out is DType.BF16 and 2 * p.width % TMA_BYTES == 0

    @property
    def block_out(self) -> int:
        """Columns of the result that a tile computes."""
        return self.tile.block_n // len(self.problem.parts)

    @property
    def tiles_n(self) -> int:
        """Tiles that cover the rows of W."""
        return -(-self.problem.n // self.tile.block_n)

    @property
    def grid(self) -> tuple[str, int, int]:
        t = self.tile
        tiles = f"(T + {t.block_t - 1}) // {t.block_t} * {self.tiles_n}"
        return f"min({t.blocks}, {tiles})" if t.blocks else tiles, 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, num_stages=self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        return render("gemm.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name}, tiles of {t.block_t} tokens x {t.block_n} x {t.block_k} weights"
