"""Index arithmetic that knows what the lanes of a vector do.

Lane i of a `Coord` is `base + stride * i`. All index maps of the shape ops are written with the few operations below.
Where a map would leave this form, or where loads would be neither one element nor 16 neighbours, it raises
`Irregular`: the loops are then emitted for scalars, whose stride is 0 and for which everything is regular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd

from warploom.codegen.cpu.values import LANES, Operand, Value, index
from warploom.ir.dims import DimLike, Shape, product


class Irregular(Exception):
    """Lanes would not be affine in the lane number; scalar code has to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Coord:
    """Coordinates of one dimension: `base` (i64) of lane 0, the step between lanes, and what divides the base.

    `multiple` is 0 for the constant 0, which everything divides.
    """

    base: Value
    stride: DimLike = 0
    multiple: int = 1

    @property
    def is_uniform(self) -> bool:
        """Whether all lanes are equal."""
        return self.stride == 0

    def within(self, boundary: DimLike) -> bool:
        """Whether a vector lies on one side of `boundary`, whatever its base."""
        if self.is_uniform:
            return True
        whole = isinstance(boundary, int) and boundary % LANES == 0 and self.multiple % LANES == 0
        return whole and self.stride == 1

    def shifted(self, by: int) -> Coord:
        """Plus a constant."""
        return Coord(self.base + by, self.stride, gcd(self.multiple, by)) if by else self


@dataclass(frozen=True, slots=True)
class Extents:
    """The values of symbolic dimensions, and what is computed with them."""

    symbols: dict[str, Value]

    def value(self, size: DimLike) -> int | Value:
        """A dimension as an operand of index arithmetic."""
        if isinstance(size, int):
            return size
        total: int | Value = 0
        for monomial, factor in size.terms:
            term: int | Value = factor
            for symbol in monomial:
                term = self.symbols[symbol] * term
            total = term + total
        return total

    def plus(self, x: Coord, y: Coord) -> Coord:
        """The sum of two coordinates."""
        return Coord(x.base + y.base, x.stride + y.stride, gcd(x.multiple, y.multiple))

    def shifted(self, x: Coord, by: DimLike) -> Coord:
        """Minus or plus a dimension."""
        return x.shifted(by) if isinstance(by, int) else Coord(x.base + self.value(by), x.stride)

    def times(self, x: Coord, by: DimLike) -> Coord:
        """The product with a dimension."""
        if by == 1:
            return x
        return Coord(x.base * self.value(by), x.stride * by, x.multiple * by if isinstance(by, int) else x.multiple)

    def divided(self, x: Coord, by: DimLike) -> tuple[Coord, Coord]:
        """Quotient and remainder."""
        size = self.value(by)
        quotient, remainder = x.base // size, x.base % size
        if x.is_uniform:
            return Coord(quotient), Coord(remainder)
        if not isinstance(by, int) or not isinstance(x.stride, int):
            raise Irregular
        if x.stride % by == 0:
            return Coord(quotient, x.stride // by), Coord(remainder)
        if x.stride == 1 and x.within(by):
            return Coord(quotient), Coord(remainder, 1, LANES)
        raise Irregular

    def linear(self, coords: Sequence[Coord], shape: Shape) -> Coord:
        """Row-major position of an element."""
        terms, step = [], product(())
        for coord, size in zip(reversed(coords), reversed(shape), strict=True):
            if size != 1:
                terms.append(self.times(coord, step))
            step = step * size
        return reduce(self.plus, reversed(terms)) if terms else zero()

    def delinear(self, position: Coord, shape: Shape) -> list[Coord]:
        """The coordinates of a row-major position."""
        coords: list[Coord] = []
        for size in reversed(shape[1:]):
            if size == 1:
                coords.append(zero())
            else:
                position, remainder = self.divided(position, size)
                coords.append(remainder)
        return [position, *reversed(coords)] if shape else []

    def reshaped(self, coords: Sequence[Coord], have: Shape, want: Shape) -> list[Coord]:
        """The coordinates under `want` of the element at `coords` under `have`."""
        result: list[Coord] = []
        for mine, theirs in _segments(have, want):
            position = self.linear(coords[mine.start : mine.stop], have[mine.start : mine.stop])
            result += self.delinear(position, want[theirs.start : theirs.stop])
        return result


def zero() -> Coord:
    """The coordinate 0."""
    return Coord(index(0), multiple=0)


def at(position: Operand) -> Coord:
    """The same coordinate in all lanes."""
    return Coord(index(position))


def lanes_from(position: Value) -> Coord:
    """`position`, a multiple of LANES, and the coordinates after it."""
    return Coord(position, 1, LANES)


def _segments(have: Shape, want: Shape) -> list[tuple[range, range]]:
    """The smallest runs of dimensions with equal products: a reshape acts on each by itself."""
    found, i, j = [], 0, 0
    while i < len(have) or j < len(want):
        stop, other = _segment(have[i:], want[j:])
        found.append((range(i, i + stop), range(j, j + other)))
        i, j = i + stop, j + other
    return found


def _segment(have: Shape, want: Shape) -> tuple[int, int]:
    lengths = [(i, j) for i in range(len(have) + 1) for j in range(len(want) + 1) if i + j]
    equal = [(i, j) for i, j in lengths if product(have[:i]) == product(want[:j])]
    return min(equal, key=sum)
