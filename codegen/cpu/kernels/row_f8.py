"""A row of activations rounded to FP8 as `quantize` or `quantize_static` does, and back in f32."""

from __future__ import annotations

from warploom.codegen.cpu.control import carry, loop
from warploom.codegen.cpu.memory import Ptr, lanes_of_row, narrow_f8, widen_f8
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    absolute,
    broadcast,
    constant,
    maximum,
    minimum,
    reduce_max,
    select,
)

LARGEST = 448.0


def scale_of_row(x: Ptr, columns: int) -> Value:
    """max|x| / 448, 1 for zeros."""

    def body(i: Value, peak: Value) -> list[Value]:
        return [maximum(absolute(x.load(i, mask=lanes_of_row(i, columns))), peak)]

    (peaks,) = carry(0, columns, [constant(0.0, "f32", LANES)], body, LANES)
    scale = reduce_max(peaks) / LARGEST
    return select(scale.eq(0.0), 1.0, scale)


def round_row_to_f8(x: Ptr, out: Ptr, columns: int, scale: Value) -> None:
    """out[i] = f8(x[i] / scale) * scale; f32, x and out may be the same."""
    wide = broadcast(scale)
    with loop(0, columns, LANES) as i:
        mask = lanes_of_row(i, columns)
        quotient = minimum(maximum(x.load(i, mask=mask) / wide, -LARGEST), LARGEST)
        out.store(i, widen_f8(narrow_f8(quotient)) * wide, mask=mask)
