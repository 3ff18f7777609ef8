"""What a linear layer computes, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from warploom.codegen.cuda.kernel import Pointer
from warploom.codegen.names import identifier, short
from warploom.ir.types import DType

TMA_BYTES = 16  # rows must begin at multiples of this to be moved by TMA


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm of x over its columns: x / sqrt(mean(x^2) + eps) * gain."""

    eps: float
    gain: DType


@dataclass(frozen=True, slots=True)
class Weight:
    """Numbers of W [n, k] and what they stand for: w * scale of its group of columns, + offset.

    Attributes:
        dtype: bf16; f8 or i8 in rows; i4 in `row4`, two a byte.
        groups: scales of a row; 0: none.
        scale: dtype of scales and offsets, [n, groups]. i8: the weight is MXFP4, whose numbers are E2M1 in the order of
            `row4`, and whose scales are exponents (see `ir/ops/mxfp4.py`).
        offset: whether there are offsets.
    """

    dtype: DType = DType.BF16
    groups: int = 0
    scale: DType = DType.F32
    offset: bool = False

    @property
    def is_mxfp4(self) -> bool:
        """Whether numbers are E2M1 and scales E8M0."""
        return self.scale is DType.I8

    @property
    def bits(self) -> int:
        """Of one number."""
        return 4 if self.dtype is DType.I4 else 8 * self.dtype.numpy.itemsize

    @property
    def stored(self) -> DType:
        """What memory holds: bytes for numbers of four bits."""
        return DType.I8 if self.dtype is DType.I4 else self.dtype

    @property
    def operands(self) -> tuple[Pointer, ...]:
        """w, scale, offset: those that there are."""
        scale = [Pointer("scale", self.scale)] if self.groups else []
        offset = [Pointer("offset", self.scale)] if self.offset else []
        return (Pointer("w", self.stored), *scale, *offset)

    def bytes(self, n: int, k: int) -> int:
        """Of W [n, k] with its scales and offsets."""
        sides = self.groups * self.scale.numpy.itemsize * (2 if self.offset else 1)
        return n * (k * self.bits // 8 + sides)

    @property
    def name(self) -> str:
        """Nothing for bf16; `i4g32x` has 32 scales a row, in f32, and offsets."""
        if self.dtype is DType.BF16:
            return ""
        if self.is_mxfp4:
            return "mxfp4"
        if not self.groups:
            return short(self.dtype)
        scale = "" if self.scale is DType.F32 else str(self.scale)
        return f"{short(self.dtype)}g{self.groups}{scale}{'x' if self.offset else ''}"


@dataclass(frozen=True, slots=True)
class LinearProblem:
    """out = epilogue(norm(x) @ W^T + bias), accumulated in f32.

    Attributes:
        n, k: W is [n, k], row-major.
        x: dtype of x [T, k]: bf16, or f32 for numbers that were cast from bf16 (they are cast back where tensor cores
            multiply), or f8 with f32 scales `x_scale` [T].
        out: dtype of the result and the residual, bf16 or f32.
        norm: of x first.
        epilogue: residual: + residual [T, n]. swiglu: W is [gate; up], the result silu(gate) * up, [T, n / 2].
        weight: the numbers of W.
        bias: dtype of [n], which is added before the epilogue; None: there is none. SwiGLU takes none.
        rounded: x, normed, is rounded to f8 with a scale for every token before the product.
    """

    n: int
    k: int
    x: DType = DType.BF16
    out: DType = DType.BF16
    norm: Norm | None = None
    epilogue: Literal["residual", "swiglu"] | None = None
    weight: Weight = Weight()
    rounded: bool = False
    bias: DType | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The matrices, one after another in W, whose rows meet in one output."""
        return ("gate", "up") if self.epilogue == "swiglu" else ("w",)

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.n // len(self.parts)

    @property
    def operands_by_tma(self) -> bool:
        """Whether rows of x and W may come by TMA as they are."""
        return (
            self.x is not DType.F32 and self.k * min(self.weight.bits, 8 * self.x.numpy.itemsize) % (8 * TMA_BYTES) == 0
        )

    @property
    def is_plain(self) -> bool:
        """Whether x and W are multiplied as they are: both bf16, or both f8."""
        return self.weight.dtype in (DType.BF16, DType.F8) and (self.weight.dtype is DType.F8) == (self.x is DType.F8)

    @property
    def name(self) -> str:
        """Readable and unique: `linear_28672x4096_rms_1em05_swiglu`."""
        parts = [f"linear_{self.n}x{self.k}"]
        if self.weight.name:
            parts.append(self.weight.name)
        if (self.x, self.out) != (DType.BF16, DType.BF16):
            parts.append(f"{short(self.x)}_{self.out}")
        if self.norm is not None:
            gain = "" if self.norm.gain is DType.BF16 else f"_{self.norm.gain}"
            parts.append(identifier(f"rms{gain}_{self.norm.eps:g}"))
        if self.bias is not None:
            parts.append(f"bias_{self.bias}")
        if self.epilogue is not None:
            parts.append(self.epilogue)
        return "_".join(parts)

    @property
    def operands(self) -> tuple[Pointer, ...]:
        """x, x_scale, gain, w, scale, offset, bias, residual, out: those that there are."""
        found = [Pointer("x", self.x)]
        if self.x is DType.F8:
            found.append(Pointer("x_scale", DType.F32))
        if self.norm is not None:
            found.append(Pointer("gain", self.norm.gain))
        found += self.weight.operands
        if self.bias is not None:
            found.append(Pointer("bias", self.bias))
        if self.epilogue == "residual":
            found.append(Pointer("residual", self.out))
        return (*found, Pointer("out", self.out))

    def prepared(self) -> LinearProblem:
        """The same on an x that is normed and rounded already."""
        return replace(self, x=DType.F8 if self.rounded or self.x is DType.F8 else DType.BF16, norm=None, rounded=False)

    def unpacked(self) -> LinearProblem:
        """The same of a weight that was made bf16."""
        return replace(self, weight=Weight())

    def flops(self, tokens: str) -> str:
        """Of the product, for a number of tokens."""
        return f"{2 * self.n * self.k} * {tokens}"

    def bytes(self, tokens: str) -> str:
        """W once, x and the result once."""
        results = self.width * (2 if self.epilogue == "residual" else 1)
        per_token = self.k * self.x.numpy.itemsize + results * self.out.numpy.itemsize
        return f"{self.weight_bytes} + {per_token} * {tokens}"

    @property
    def weight_bytes(self) -> int:
        """Of W with its scales and offsets."""
        return self.weight.bytes(self.n, self.k)
