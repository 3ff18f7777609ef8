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
from warploom.ir.ops.int8_rows import LARGEST, LOWEST_EXPONENT

_BIAS, _MANTISSA_BITS, _SPARE = 127, 23, 6
_ROUND, _ROUND_BITS = 12582912.0, 0x4B400000  # 1.5 * 2^23: adding it rounds to a whole number, ties to even


def power(exponent: Value) -> Value:
    """2^e of integers, f32."""
    return bitcast((convert_int(exponent, "i32") + _BIAS) << _MANTISSA_BITS, "f32")


def round_row_to_i8(x: Ptr, columns: int, store: Callable[[Value, Value], None]) -> Value:
    """Hand each run of 16 numbers (i8) with its first column to `store`; the exponent of the row, i8.

    `x` is f32, its columns are a multiple of 16.
    """

    def body(i: Value, peak: Value) -> list[Value]:
        return [maximum(absolute(x.load(i)), peak)]

    (peaks,) = carry(0, columns, [constant(0.0, "f32", LANES)], body, LANES)
    bits = bitcast(reduce_max(peaks), "i32")
    exponent = maximum((bits >> _MANTISSA_BITS) - (_BIAS + _SPARE), LOWEST_EXPONENT)
    inverse = broadcast(bitcast((-exponent + _BIAS) << _MANTISSA_BITS, "f32"))
    with loop(0, columns, LANES) as i:
        scaled = minimum(maximum(x.load(i) * inverse, -float(LARGEST)), float(LARGEST))
        store(i, convert_int(bitcast(scaled + _ROUND, "i32") - _ROUND_BITS, "i8"))
    return convert_int(exponent, "i8")
