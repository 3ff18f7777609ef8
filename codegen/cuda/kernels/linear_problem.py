"""What a linear layer computes, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from warploom.codegen.cuda.kernel import Pointer
from warploom.ir.types import DType

TMA_COLUMNS = 8  # rows of bf16 must begin at multiples of 16 bytes to be moved by TMA


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm of x over its columns: x / sqrt(mean(x^2) + eps) * gain."""

    eps: float
    gain: DType


@dataclass(frozen=True, slots=True)
class LinearProblem:
    """out = epilogue(norm(x) @ W^T), accumulated in f32.

    Attributes:
        n, k: W is [n, k], row-major, bf16.
        x: dtype of x [T, k]: bf16, or f32 for numbers that were cast from bf16 (they are cast back where tensor cores
            multiply).
        out: dtype of the result and the residual, bf16 or f32.
        norm: of x first.
        epilogue: residual: + residual [T, n]. swiglu: W is [gate; up], the result silu(gate) * up, [T, n / 2].
    """

    n: int
    k: int
    x: DType = DType.BF16
    out: DType = DType.BF16
    norm: Norm | None = None
    epilogue: Literal["residual", "swiglu"] | None = None

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.n // 2 if self.epilogue == "swiglu" else self.n

    @property
    def operands_by_tma(self) -> bool:
        """Whether rows of x and W may come by TMA as they are."""
        return self.x is DType.BF16 and self.k % TMA_COLUMNS == 0

    @property
    def name(self) -> str:
        """Readable and unique: `linear_28672x4096_rms_1em05_swiglu`."""
        parts = [f"linear_{self.n}x{self.k}"]
        if (self.x, self.out) != (DType.BF16, DType.BF16):
            parts.append(f"{self.x}_{self.out}")
        if self.norm is not None:
            gain = "" if self.norm.gain is DType.BF16 else f"_{self.norm.gain}"
            parts.append(f"rms{gain}_{self.norm.eps:g}".replace("-", "m").replace(".", "p").replace("+", ""))
        if self.epilogue is not None:
            parts.append(self.epilogue)
        return "_".join(parts)

    @property
    def operands(self) -> tuple[Pointer, ...]:
        """x, gain, w, residual, out: those that there are."""
        gain = [] if self.norm is None else [Pointer("gain", self.norm.gain)]
        residual = [Pointer("residual", self.out)] if self.epilogue == "residual" else []
        x, w, out = Pointer("x", self.x), Pointer("w", DType.BF16), Pointer("out", self.out)
        return (x, *gain, w, *residual, out)

    def without_norm(self) -> LinearProblem:
        """The same on an x that is normed already, and bf16."""
        return replace(self, x=DType.BF16, norm=None)

    def flops(self, tokens: str) -> str:
        """Of the product, for a number of tokens."""
        return f"{2 * self.n * self.k} * {tokens}"

    def bytes(self, tokens: str) -> str:
        """W once, x and the result once."""
        results = self.width * (2 if self.epilogue == "residual" else 1)
        per_token = self.k * self.x.numpy.itemsize + results * self.out.numpy.itemsize
        return f"{2 * self.n * self.k} + {per_token} * {tokens}"
