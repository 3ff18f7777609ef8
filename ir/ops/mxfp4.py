"""MXFP4 weights (OCP Microscaling Formats 1.0): E2M1 numbers, and a power of two for every 32 of them along a row.

A number of four bits is sign, two bits of exponent, one of mantissa: +-0, 0.5, 1, 1.5, 2, 3, 4, 6. A scale byte s
(E8M0) stands for 2^(s - 127); 255 is NaN. A weight [n, k] is q i8 [n, k / 2], two numbers a byte in the order of the
layout `row4` (see `ir/layouts.py`), and scale i8 [n, k / 32]. All its values are numbers of bf16.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike
from warploom.ir.layouts import pack_array, unpack_array
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.dequantize import over_groups
from warploom.ir.ops.elementwise import (
    absolute,
    add,
    as_dtype,
    bit_and,
    bitcast,
    cast,
    compare,
    maximum,
    minimum,
    mul,
    shl,
    shr,
    sub,
)
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.packing import pack, static, static_matrix, unpacked
from warploom.ir.ops.reduce import reduce_max
from warploom.ir.ops.shape import constant, full, gather, reshape
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

GROUP = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the low three bits
NUMBERS = np.array([*MAGNITUDES, *(-m for m in MAGNITUDES)], np.float32)  # by all four
POWERS = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))  # by the byte of the scale
# A magnitude from here on is rounded up to the next of `MAGNITUDES`: ties go to those whose last bit is 0.
_TIES = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))
_LARGEST_EXPONENT = 2  # of a number
_BIAS = 127

BYTES = frozenset({DType.I8})
PARTS = (Operand("q", BYTES), Operand("scale", BYTES))
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class QuantizeMxfp4(Op):
    """The MXFP4 weight nearest to a matrix [n, k].

    The scale is the power of two that brings the largest exponent of a group to that of 4 (OCP 6.3), within 2^-126 and
    2^125; numbers are rounded to nearest, ties to even, and saturate at 6.
    """

    name = "quantize_mxfp4"
    operands = (Operand("x", FLOATS, widened=True),)
    results = ("q", "scale")

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        """q [n, k / 2] and scale [n, k / 32]."""
        n, k = static_matrix(x)
        _check_columns(k)
        return tensor((n, k // 2), DType.I8), tensor((n, k // GROUP), DType.I8)

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """By the definition."""
        grouped = x.reshape(len(x), -1, GROUP)
        exponent = np.frexp(np.abs(grouped).max(-1))[1] - 1
        scale = np.clip(exponent - _LARGEST_EXPONENT + _BIAS, 1, 252)
        share = np.abs(grouped) / np.ldexp(x.dtype.type(1), scale - _BIAS)[..., None]
        code = sum((share >= at if up else share > at).astype(np.int8) for at, up in _TIES)
        signed = code | (np.signbit(grouped).astype(np.int8) << 3)
        return pack_array(signed.reshape(x.shape) - np.int8(8), "row4"), scale.astype(np.uint8).view(np.int8)

    def decompose(self, x: mlir.Value) -> tuple[mlir.Value, ...]:
        """Exponents by their bits, codes by comparisons."""
        n, k = static_matrix(type_of(x))
        grouped = reshape(as_dtype(x, DType.F32), shape=(n, k // GROUP, GROUP))
        exponent = shr(*_with(bitcast(reduce_max(absolute(grouped), axis=2), dtype="i32"), 23))
        scale = minimum(*_with(maximum(*_with(sub(*_with(exponent, _LARGEST_EXPONENT)), 1)), 252))
        # 2^(127 - s), whose bits are 254 - s, is exact, and so is a product with it.
        inverse = bitcast(shl(*_with(sub(_like(scale, 2 * _BIAS), scale), 23)), dtype="f32")
        share = mul(absolute(grouped), over_groups(inverse, grouped))
        bits = bitcast(grouped, dtype="i32")
        code = shl(*_with(shr(*_with(bits, 31)), 3))
        for at, up in _TIES:
            above = compare(*_with(share, at), direction="ge" if up else "gt")
            code = add(code, cast(above, dtype="i32"))
        number = cast(sub(*_with(reshape(code, shape=(n, k)), 8)), dtype="f32")
        return pack(cast(number, dtype="i4"), layout="row4"), cast(scale, dtype="i8")

    def generate(self, choose: Chooser) -> Generated:
        """A matrix whose groups differ in size."""
        n, k = choose.integer(1, 5), choose.choice([32, 96, 128])
        return [choose.input(tensor((n, k), choose.choice([DType.F32, DType.BF16])), -9, 9)], {}


class DequantizeMxfp4(Op):
    """What an MXFP4 weight stands for, f32 [n, k]."""

    name = "dequantize_mxfp4"
    operands = PARTS

    def infer(self, q: TensorType, scale: TensorType) -> TensorType:
        """[n, k]."""
        return tensor(check_parts(q, scale), DType.F32)

    def evaluate(self, q: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """A table and a power of two."""
        return mxfp4_values(q, scale)

    def decompose(self, q: mlir.Value, scale: mlir.Value) -> mlir.Value:
        """Bit by bit."""
        return _core_values(q, scale)

    def generate(self, choose: Chooser) -> Generated:
        """Any numbers, scales not far from 1."""
        return generate_weight(choose, choose.integer(1, 5), choose.choice([32, 64, 96, 128])), {}


class Mxfp4ExpertLinear(Op):
    """`expert_linear` with an MXFP4 weight, whose values are read as the dtype of x."""

    name = "mxfp4_expert_linear"
    operands = (activation("x"), Operand("experts", frozenset({DType.I32})), *PARTS)
    attributes = (Attribute("n", Kind.INT),)

    def infer(self, x: TensorType, experts: TensorType, q: TensorType, scale: TensorType, *, n: int) -> TensorType:
        """[T, J, n]."""
        return expert_linear.infer(x, experts, tensor(check_parts(q, scale), x.dtype), n=n)

    def evaluate(self, x: np.ndarray, experts: np.ndarray, q: np.ndarray, scale: np.ndarray, *, n: int) -> np.ndarray:
        """One matrix product for each choice."""
        return expert_linear.evaluate(x, experts, mxfp4_values(q, scale), n=n)

    def decompose(self, x: mlir.Value, experts: mlir.Value, q: mlir.Value, scale: mlir.Value, *, n: int) -> mlir.Value:
        """Dequantize, gather the matrices of the chosen experts, contract."""
        return expert_linear.decompose(x, experts, _core_values(q, scale), n=n)

    def generate(self, choose: Chooser) -> Generated:
        """Up to three choices, in and just outside of up to four experts."""
        tokens, choices, count = choose.symbol(), choose.integer(1, 3), choose.integer(1, 4)
        k, n, rows = choose.choice([32, 64, 96]), choose.choice([1, 5, 18]), choose.choice([1, choices])
        x = choose.like(tensor((tokens, rows, k), choose.choice([DType.F32, DType.BF16])))
        experts = choose.input(tensor((tokens, choices), DType.I32), -1, count)
        return [x, experts, *generate_weight(choose, count * n, k)], {"n": n}


def check_parts(q: TensorType, scale: TensorType) -> tuple[int, int]:
    """Rows and columns of an MXFP4 weight; IRError if its parts do not fit."""
    n, half = static_matrix(q)
    _check_columns(2 * half)
    if not scale.matches(tensor((n, 2 * half // GROUP), DType.I8)):
        raise IRError("scales do not fit", expected=f"i8 [{n}, {2 * half // GROUP}]", found=str(scale))
    return n, 2 * half


def mxfp4_values(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 [n, k] of q [n, k / 2] and scale [n, k / 32]."""
    numbers = NUMBERS[unpack_array(q, len(q), "row4") + 8].reshape(*scale.shape, GROUP)
    return (numbers * POWERS[scale.view(np.uint8)][..., None]).reshape(len(q), -1)


def generate_weight(choose: Chooser, n: int, k: int) -> list[mlir.Value]:
    """The parts of a weight [n, k] with any numbers and scales from 2^-7 to 1."""
    q = choose.input(tensor((n, k // 2), DType.I8), -128, 127)
    return [q, choose.input(tensor((n, k // GROUP), DType.I8), _BIAS - 7, _BIAS)]


def _core_values(q: mlir.Value, scale: mlir.Value) -> mlir.Value:
    n, k = check_parts(type_of(q), type_of(scale))
    code = cast(add(*_with(unpacked(q, n, "row4"), 8)), dtype="i32")
    grouped = reshape(gather(constant(value=NUMBERS), code), shape=(n, k // GROUP, GROUP))
    power = gather(constant(value=POWERS), bit_and(*_with(cast(scale, dtype="i32"), 255)))
    result: mlir.Value = reshape(mul(grouped, over_groups(power, grouped)), shape=(n, k))
    return result


def _check_columns(k: DimLike) -> None:
    if static(k) % GROUP or not k:
        raise IRError("the columns of an MXFP4 weight come in groups", expected=f"a multiple of {GROUP}", found=str(k))


def _with(x: mlir.Value, value: float) -> tuple[mlir.Value, mlir.Value]:
    return x, _like(x, value)


def _like(x: mlir.Value, value: float) -> mlir.Value:
    result: mlir.Value = full(shape=type_of(x).shape, value=float(value), dtype=type_of(x).dtype.value)
    return result


quantize_mxfp4, dequantize_mxfp4, mxfp4_expert_linear = QuantizeMxfp4(), DequantizeMxfp4(), Mxfp4ExpertLinear()
