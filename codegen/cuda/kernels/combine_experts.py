"""The weighted sum of what experts made of a token, in the order of its choices."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

BLOCK = 1024  # columns of a block, at most


@dataclass(frozen=True, slots=True)
class CombineExpertsSpec:
    """out [T, n] = residual + sum over j of shares[t, j] * y[t, j]; y is bf16 [T, choices, n]."""

    n: int
    choices: int
    out: DType
    residual: bool
    pdl: bool

    @property
    def name(self) -> str:
        residual = "_residual" if self.residual else ""
        return f"combine_experts_{self.choices}x{self.n}_{self.out}{residual}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        residual = [Pointer("residual", self.out)] if self.residual else []
        return (Pointer("y", DType.BF16), Pointer("shares", DType.F32), *residual, Pointer("out", self.out))

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def block(self) -> int:
        """Columns of a block."""
        return min(BLOCK, next_power_of_2(self.n))

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", -(-self.n // self.block), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{2 * self.choices * self.n} * T"

    @property
    def bytes(self) -> str:
        return f"{self.n * (2 * self.choices + self.out.numpy.itemsize * (1 + self.residual))} * T"

    def source(self) -> str:
        return render("combine_experts.py.j2", spec=self)

    def __str__(self) -> str:
        return f"weighted sum of {self.choices} rows of {self.n}"
