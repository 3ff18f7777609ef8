"""Rows of int8 numbers on a power of two, as an i8 cache holds them; see `ir/ops/int8_rows.py`."""

from __future__ import annotations

from collections.abc import Callable

from warploom.codegen.cpu.control import carry, loop
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    absolute,
    bitcast,
    broadcast,
    constant,
    convert_int,
    maximum,
    minimum,
    reduce_max,
)
from warploom.ir.ops.int8_rows import BIAS, LARGEST, LOWEST_EXPONENT, MANTISSA_BITS, SPARE

_ROUND, _ROUND_BITS = 12582912.0, 0x4B400000  # 1.5 * 2^23: adding it rounds to a whole number, ties to even


def power(exponent: Value) -> Value:
    """2^e of integers, f32."""
    return bitcast((convert_int(exponent, "i32") + BIAS) << MANTISSA_BITS, "f32")


def peak_bits(x: Ptr, columns: int) -> Value:
    """The largest magnitude of f32 numbers, a multiple of 16 of them, as its bits, i32."""

    def body(i: Value, peak: Value) -> list[Value]:
        return [maximum(absolute(x.load(i)), peak)]

    (peaks,) = carry(0, columns, [constant(0.0, "f32", LANES)], body, LANES)
    return bitcast(reduce_max(peaks), "i32")


def round_row_to_i8(x: Ptr, columns: int, store: Callable[[Value, Value], None]) -> Value:
    """Hand each run of 16 numbers (i8) with its first column to `store`; the exponent of the row, i8.

    `x` is f32, its columns are a multiple of 16.
    """
    exponent = maximum((peak_bits(x, columns) >> MANTISSA_BITS) - (BIAS + SPARE), LOWEST_EXPONENT)
    inverse = broadcast(power(-exponent))
    with loop(0, columns, LANES) as i:
        scaled = minimum(maximum(x.load(i) * inverse, -float(LARGEST)), float(LARGEST))
        store(i, convert_int(bitcast(scaled + _ROUND, "i32") - _ROUND_BITS, "i8"))
    return convert_int(exponent, "i8")
