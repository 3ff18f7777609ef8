"""A linear layer of one token or very few: CUDA cores, limited by the memory that W is read from.

A block reads a few rows of W, which no other block reads: no other way to read memory was as fast. Rows are loaded
before the previous kernel is waited for: W depends on nothing. The norm costs no second pass: sum((x / rms) * gain * w)
= sum(x * gain * w) / rms, and the squares are summed along the way (the fused norm of HazyResearch/Megakernels
`rms_matvec_rope_append.cu`).
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import GemvTile
from warploom.codegen.cuda.render import render


@dataclass(frozen=True, slots=True)
class GemvSpec:
    """out [T, width] for x [T, k], T <= block_t."""

    problem: LinearProblem
    tile: GemvTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        tokens = f"{t.block_t}x" if t.block_t > 1 else ""
        return f"{self.problem.name}_gemv_{tokens}{t.block_n}x{t.block_k}_a{t.ahead}_w{t.num_warps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return self.problem.operands

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",) if self.tile.block_t > 1 else ()

    @property
    def grid(self) -> tuple[int, int, int]:
        return -(-self.problem.width // self.tile.block_n), 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return self.problem.flops(self._tokens)

    @property
    def bytes(self) -> str:
        return self.problem.bytes(self._tokens)

    @property
    def _tokens(self) -> str:
        return "T" if self.dims else "1"

    def source(self) -> str:
        return render(
            "gemv.py.j2", spec=self, p=self.problem, t=self.tile, pieces=-(-self.problem.k // self.tile.block_k)
        )

    def __str__(self) -> str:
        tokens = f"up to {self.tile.block_t} tokens" if self.dims else "one token"
        return f"{self.problem.name} of {tokens}, {self.tile.block_n} outputs a block"
