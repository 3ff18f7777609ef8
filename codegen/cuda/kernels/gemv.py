"""A linear layer of one token: CUDA cores, limited by the memory that W is read from.

A block reads a few rows of W, which no other block reads. Rows are loaded before the previous kernel is waited for:
W depends on nothing. The norm costs no second pass: sum((x / rms) * gain * w) = sum(x * gain * w) / rms, and the
squares are summed along the way (the fused norm of HazyResearch/Megakernels `rms_matvec_rope_append.cu`).
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import GemvTile
from warploom.codegen.cuda.render import render


@dataclass(frozen=True, slots=True)
class GemvSpec:
    """out [1, width] for x [1, k]."""

    problem: LinearProblem
    tile: GemvTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        return f"{self.problem.name}_gemv_{t.block_n}x{t.block_k}_a{t.ahead}_w{t.num_warps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return self.problem.operands

    @property
    def dims(self) -> tuple[str, ...]:
        return ()

    @property
    def grid(self) -> tuple[int, int, int]:
        return -(-self.problem.width // self.tile.block_n), 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return self.problem.flops("1")

    @property
    def bytes(self) -> str:
        return self.problem.bytes("1")

    def source(self) -> str:
        return render(
            "gemv.py.j2", spec=self, p=self.problem, t=self.tile, pieces=-(-self.problem.k // self.tile.block_k)
        )

    def __str__(self) -> str:
        return f"{self.problem.name} of one token, {self.tile.block_n} outputs a block"
