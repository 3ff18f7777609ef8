"""A linear layer of bf16 activations and quantized weights, for any number of tokens and any architecture.

W is the left side of the product, as in `skinny_gemm`: there tensor cores take it from registers, where its numbers
were just made bf16. The sums of a group of columns are scaled, not its weights: they are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.mixed_runs import LONGEST, Run, length_of, runs_of
from warploom.codegen.cuda.kernels.tiles import MixedTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.layouts import split_block
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class MixedSpec(OfTokens):
    """out [T, width] for x [T, k]."""

    problem: LinearProblem
    tile: MixedTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        return f"{self.problem.name}_mixed_{t.block_n}x{t.block_t}_w{t.num_warps}s{t.num_stages}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return self.problem.operands

    @property
    def runs(self) -> list[Run]:
        """The products of one step along the columns."""
        return runs_of(self.problem, self.block_k)

    @property
    def block_k(self) -> int:
        """Columns of a step: whole blocks of packed numbers, whole groups."""
        if self.problem.weight.dtype is DType.I4:
            return split_block(self.problem.k)
        return LONGEST if self.problem.k % LONGEST == 0 else self.run

    @property
    def run(self) -> int:
        """Columns of a product."""
        return length_of(self.problem)

    @property
    def grid(self) -> tuple[int, str, int]:
        t = self.tile
        return -(-self.problem.width // t.block_n), f"(T + {t.block_t - 1}) // {t.block_t}", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, num_stages=self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        return render("mixed_gemm.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name}, tiles of {t.block_n} weights' rows x {t.block_t} tokens"
