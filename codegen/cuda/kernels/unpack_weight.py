"""Quantized weights as bf16 in memory, for products of so many tokens that this costs little beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.codegen.cuda.render import render
from warploom.ir.layouts import split_block
from warploom.ir.types import DType

ROWS = 4  # of a block
UNIT = 8  # bytes that a thread reads at once, and turns into as much of `wide` as it can store at once
BYTES = 512  # of a row that a block reads at once, at most


@dataclass(frozen=True, slots=True)
class UnpackSpec:
    """wide bf16 [n, k] of w, scale and maybe offset."""

    n: int
    k: int
    weight: Weight
    pdl: bool

    @property
    def name(self) -> str:
        return f"unpack_{self.n}x{self.k}_{self.weight.name}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return (*self.weight.operands, Pointer("wide", DType.BF16))

    @property
    def dims(self) -> tuple[str, ...]:
        return ()

    @property
    def row_bytes(self) -> int:
        """Of W in memory."""
        return self.k * self.weight.bits // 8

    @property
    def half(self) -> int:
        """Columns between the two numbers of a byte; 0: a byte is one number."""
        return split_block(self.k) // 2 if self.weight.dtype is DType.I4 else 0

    @property
    def block(self) -> int:
        """Bytes of a row that a block reads."""
        return min(BYTES, next_power_of_2(self.row_bytes))

    @property
    def unit(self) -> int:
        """Bytes that are neighbours and whose numbers are of one group, or of one low and one high."""
        return math.gcd(UNIT, self.row_bytes, self.k // self.weight.groups, self.half or UNIT)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return ROWS

    @property
    def grid(self) -> tuple[int, int, int]:
        return -(-self.n // ROWS), -(-self.row_bytes // self.block), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return str(self.n * self.k)

    @property
    def bytes(self) -> str:
        return str(self.weight.bytes(self.n, self.k) + 2 * self.n * self.k)

    def source(self) -> str:
        return render("unpack_weight.py.j2", spec=self)

    def __str__(self) -> str:
        return f"weights {self.n} x {self.k} of {self.weight.name} as bf16"
