"""Products with experts for so few tokens that hardly two meet in one expert: each reads its own, on CUDA cores.

There are two. `ExpertGemvSpec` has a block for a few outputs of one choice of one token. `ExpertSumSpec` has a block
for a few columns of one token, and sums over all its choices, in order: what experts made is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem
from warploom.codegen.cuda.kernels.expert_tiles import ExpertGemvTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.layouts import split_block
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class ExpertGemvSpec(OfTokens):
    """out [T, choices, width] of x [T, k] or [T, choices, k] and experts i32 [T, choices].

    It starts those after it only when those before it are done (see `ExpertSumSpec.early`).
    """

    problem: ExpertProblem
    tile: ExpertGemvTile
    pdl: bool

    @property
    def name(self) -> str:
        return f"experts_{self.problem.name}_gemv_{_tile_name(self.tile)}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        p = self.problem
        return (Pointer("x", DType.BF16), Pointer("experts", DType.I32), *p.weight_operands, Pointer("out", p.out))

    @property
    def grid(self) -> tuple[int, str, int]:
        return -(-self.problem.width // self.tile.block_n), f"{self.problem.choices} * T", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=self.pdl)

    def source(self) -> str:
        return render("expert_gemv.py.j2", spec=self, p=self.problem, t=self.tile, **_pieces(self.problem, self.tile))

    def __str__(self) -> str:
        return f"experts {self.problem.name} of few tokens, {self.tile.block_n} outputs a block"


@dataclass(frozen=True, slots=True)
class ExpertSumSpec(OfTokens):
    """out [T, n] = residual + sum over j of shares[t, j] * (x[t, j] @ W[experts[t, j]]^T + bias).

    Attributes:
        residual: dtype of what is added, which is that of the result, or None.
        early: the kernel right before has made neither experts nor shares, and starts this one when all before it are
            done: they are read, and the weights too, before it is waited for.
    """

    problem: ExpertProblem
    tile: ExpertGemvTile
    residual: bool
    early: bool
    pdl: bool

    @property
    def name(self) -> str:
        residual = f"{'_residual' if self.residual else ''}{'_early' if self.early else ''}"
        return f"experts_{self.problem.name}_sum{residual}_{_tile_name(self.tile)}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        p = self.problem
        first = (Pointer("x", DType.BF16), Pointer("experts", DType.I32), Pointer("shares", DType.F32))
        residual = [Pointer("residual", p.out)] if self.residual else []
        return (*first, *p.weight_operands, *residual, Pointer("out", p.out))

    @property
    def grid(self) -> tuple[int, str, int]:
        return -(-self.problem.n // self.tile.block_n), "T", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=self.pdl)

    def source(self) -> str:
        return render("expert_sum.py.j2", spec=self, p=self.problem, t=self.tile, **_pieces(self.problem, self.tile))

    def __str__(self) -> str:
        return f"weighted sum of experts {self.problem.name} of few tokens, {self.tile.block_n} outputs a block"


def _tile_name(tile: ExpertGemvTile) -> str:
    return f"{tile.block_n}x{tile.block}_a{tile.ahead}_w{tile.num_warps}"


def _pieces(p: ExpertProblem, tile: ExpertGemvTile) -> dict[str, int]:
    """How a row lies in memory: its stored numbers, pieces that cover it, what shares a scale, and the distance of the
    columns whose numbers share a byte (0: a byte is one number, or less)."""
    nibbles = p.weight.bits == 4
    row = p.k // 2 if nibbles else p.k
    return {
        "row": row,
        "pieces": -(-row // tile.block),
        "chunk": min(p.run, tile.block) if p.weight.groups > 1 else tile.block,
        "half": split_block(p.k) // 2 if nibbles else 0,
    }
