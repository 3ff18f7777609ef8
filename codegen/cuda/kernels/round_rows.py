"""Rows as numbers of eight bits, each row on a scale of its own; with an RMSNorm before it costs no further pass."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import Norm
from warploom.codegen.cuda.kernels.token_work import BlockOfToken
from warploom.codegen.cuda.render import render
from warploom.codegen.names import identifier
from warploom.ir.types import DType

COLUMNS_PER_THREAD = 16


@dataclass(frozen=True, slots=True)
class RoundRowsSpec(BlockOfToken):
    """out f8 [T, k], out_scale f32 [T] of x [T, k]: scale = max|x| / 448, as `quantize` has it."""

    k: int
    x: DType
    norm: Norm | None
    pdl: bool

    @property
    def name(self) -> str:
        norm = ""
        if self.norm is not None:
            norm = identifier(f"_rms_{self.norm.gain}_{self.norm.eps:g}")
        return f"round_rows_{self.k}_{self.x}{norm}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        gain = [] if self.norm is None else [Pointer("gain", self.norm.gain)]
        return (Pointer("x", self.x), *gain, Pointer("out", DType.F8), Pointer("out_scale", DType.F32))

    @property
    def block(self) -> int:
        """The row, padded to a power of two."""
        return next_power_of_2(self.k)

    @property
    def of_bf16(self) -> bool:
        """Whether what is divided is bf16. Then an inverse and two fused products give the quotient of IEEE.

        Markstein (1990): a quotient to the last bit, corrected by its exact remainder times the inverse, is rounded
        right, unless all bits of the divisor are ones. max|x| / 448 of an x of eight bits has none such.
        """
        return self.x is DType.BF16 or self.norm is not None

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block, COLUMNS_PER_THREAD, 16), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{(6 if self.norm else 2) * self.k} * T"

    @property
    def bytes(self) -> str:
        return f"{self.k * (self.x.numpy.itemsize + 1) + 4} * T"

    def source(self) -> str:
        return render("round_rows.py.j2", spec=self)

    def __str__(self) -> str:
        return f"rows of {self.k} {self.x}{', normed,' if self.norm else ''} as f8, each with its scale"
