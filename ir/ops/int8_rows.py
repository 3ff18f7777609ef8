"""Rows of int8 numbers, each on a power of two of its own: what an int8 KV cache holds of a token's head.

A row x stands as q * 2^e, with e six less than the exponent of max|x|, so that numbers reach from 64 to 127. e is
within -126 and 121, and -126 for a row of zeros. A power of two costs one byte and no rounding of its own, so every
target finds the same bits.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.ops.elementwise import absolute, add, bitcast, cast, maximum, minimum, mul, round_even, shl, shr, sub
from warploom.ir.ops.reduce import reduce_max
from warploom.ir.ops.shape import broadcast, full
from warploom.ir.types import type_of

LARGEST = 127
LOWEST_EXPONENT = -126
BIAS, MANTISSA_BITS, SPARE = 127, 23, 6


def rounded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q i8 [.., D] and e i8 [..] of x [.., D]."""
    peak = np.abs(x).max(-1).astype(np.float32)
    exponent = (peak.view(np.int32) >> MANTISSA_BITS) - (BIAS + SPARE)
    exponent = np.maximum(exponent, LOWEST_EXPONENT)
    q = np.clip(np.rint(np.ldexp(x, -exponent[..., None])), -LARGEST, LARGEST)
    return q.astype(np.int8), exponent.astype(np.int8)


def values(q: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """f32 [.., D]."""
    return np.ldexp(q.astype(np.float32), exponent[..., None].astype(np.int32))


def core_rounded(x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
    """`rounded` in core ops."""
    wide = cast(x, dtype="f32")
    peak = bitcast(reduce_max(absolute(wide), axis=type_of(x).rank - 1), dtype="i32")
    exponent = sub(shr(peak, _like(peak, MANTISSA_BITS)), _like(peak, BIAS + SPARE))
    exponent = maximum(exponent, _like(peak, LOWEST_EXPONENT))
    quotient = round_even(mul(wide, _over_row(_power(sub(_like(peak, 0), exponent)), wide)))
    q = minimum(maximum(quotient, _like(quotient, -LARGEST)), _like(quotient, LARGEST))
    return cast(q, dtype="i8"), cast(exponent, dtype="i8")


def core_values(q: mlir.Value, exponent: mlir.Value) -> mlir.Value:
    """`values` in core ops."""
    wide = cast(q, dtype="f32")
    result: mlir.Value = mul(wide, _over_row(_power(cast(exponent, dtype="i32")), wide))
    return result


def _power(exponent: mlir.Value) -> mlir.Value:
    """2^e, by its bits."""
    bits = shl(add(exponent, _like(exponent, BIAS)), _like(exponent, MANTISSA_BITS))
    result: mlir.Value = bitcast(bits, dtype="f32")
    return result


def _over_row(x: mlir.Value, rows: mlir.Value) -> mlir.Value:
    """One number a row [..] over rows [.., D]."""
    dims = type_of(rows).shape
    result: mlir.Value = broadcast(x, shape=dims, dims=tuple(range(len(dims) - 1)))
    return result


def _like(x: mlir.Value, value: float) -> mlir.Value:
    type_ = type_of(x)
    result: mlir.Value = full(shape=type_.shape, value=float(value), dtype=type_.dtype.value)
    return result
