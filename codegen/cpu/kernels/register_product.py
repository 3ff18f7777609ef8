"""Small matrix products with all totals in vector registers: a scalar of the left times a vector of the right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from warploom.codegen.cpu.control import carry
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value, fma, to_f32

Access = Callable[[Value], Value]


def scalars(base: Ptr) -> Access:
    """base[i]."""
    return lambda i: base[i]


def vectors(base: Ptr, stride: int) -> Access:
    """16 elements from base[i * stride] on, as f32."""
    return lambda i: to_f32(base.load(i * stride))


def multiply(
    initial: Sequence[Value], inner: tuple[Value | int, Value | int], left: Sequence[Access], right: Sequence[Access]
) -> list[Value]:
    """initial[row, column] + sum over i in `inner`, in order, of left[row](i) * right[column](i), in registers."""

    def step(i: Value, *totals: Value) -> list[Value]:
        row = [read(i) for read in right]
        factors = [(scalar, vector) for scalar in (read(i) for read in left) for vector in row]
        return [fma(vector, scalar, total) for (scalar, vector), total in zip(factors, totals, strict=True)]

    return carry(*inner, initial, step)


def register_blocks(rows: int, columns: int, isa: Isa) -> Iterator[tuple[range, range]]:
    """Cut rows x columns into equal blocks whose totals fit the vector registers of the level."""
    height = largest_divisor(rows, isa.accumulators)
    width = largest_divisor(columns, isa.accumulators // height)
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield range(row, row + height), range(column, column + width)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)
