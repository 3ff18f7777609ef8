"""Symbolic dimensions: polynomials with integer coefficients over named symbols such as `T` or `S`.

A dimension of a tensor is an `int` or a `Dim`. Comparing two dimensions either has one answer for every value of
the symbols or is refused with an `IRError` (the rule of JAX's shape polymorphism: never guess).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from warploom.errors import IRError

Monomial = tuple[str, ...]  # sorted symbols, e.g. ("P", "S"); () is the constant term


@dataclass(frozen=True)
class Dim:
    """A non-constant polynomial. Build with `dim("S+1")` or arithmetic; constants collapse to `int`."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: DimLike) -> DimLike:
        return _combine([*self.terms, *_terms(other)])

    def __mul__(self, other: DimLike) -> DimLike:
        pairs = ((a, b) for a in self.terms for b in _terms(other))
        return _combine((tuple(sorted(a[0] + b[0])), a[1] * b[1]) for a, b in pairs)

    def __sub__(self, other: DimLike) -> DimLike:
        return self + other * -1

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: DimLike) -> DimLike:
        return self * -1 + other

    def __str__(self) -> str:
        def monomial(symbols: Monomial, factor: int) -> str:
            parts = [] if factor == 1 and symbols else [str(factor)]
            return "*".join([*parts, *symbols])

        return "+".join(monomial(*term) for term in self.terms).replace("+-", "-")

    @property
    def symbols(self) -> frozenset[str]:
        """The names that occur."""
        return frozenset(s for monomial, _ in self.terms for s in monomial)


DimLike = int | Dim
Shape = tuple[DimLike, ...]


@dataclass(frozen=True)
class DimRange:
    """What is known of a symbol: `min <= value <= max` and `value % multiple_of == 0`."""

    min: int
    max: int
    multiple_of: int = 1


def dim(value: DimLike | str) -> DimLike:
    """Parse `"T"`, `"S+1"`, `"2*T*P-3"` or pass a dimension through.

    Raises:
        IRError: the text is no polynomial.
    """
    if not isinstance(value, str):
        return value
    if not _POLYNOMIAL.fullmatch(value):
        raise IRError(f"{value!r} is not a dimension", expected="an integer or a polynomial such as 'S+1'")
    terms = []
    for sign, body in re.findall(r"([+-]?)([^+-]+)", value):
        factors = [f.strip() for f in body.split("*")]
        number = math.prod(int(f) for f in factors if f.isdigit())
        symbols = tuple(sorted(f for f in factors if not f.isdigit()))
        terms.append((symbols, -number if sign == "-" else number))
    return _combine(terms)


_FACTOR = r"\s*(?:[0-9]+|[A-Za-z_][A-Za-z0-9_]*)\s*"
_TERM = rf"{_FACTOR}(?:\*{_FACTOR})*"
_POLYNOMIAL = re.compile(rf"\s*-?{_TERM}(?:[+-]{_TERM})*")


def shape(dims: Iterable[DimLike | str]) -> Shape:
    """A tuple of dimensions from integers, symbols and expressions."""
    return tuple(dim(d) for d in dims)


def product(dims: Iterable[DimLike]) -> DimLike:
    """Number of elements of a shape."""
    return math.prod(dims, start=1)


def equal(a: DimLike, b: DimLike) -> bool:
    """Whether two dimensions are equal for every value of their symbols.

    Raises:
        IRError: it depends on the symbols.
    """
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    raise IRError(
        f"cannot decide whether dimensions {a} and {b} are equal",
        expected="dimensions that are equal, or different, for all values of their symbols",
        found=f"a difference of {difference}",
        fix="use the same symbol for both, or reshape so that the comparison does not arise",
    )


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes have equal rank and dimensions (see `equal`)."""
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def resolve(value: DimLike, env: Mapping[str, int]) -> int:
    """The number that a dimension stands for under the symbol values `env`."""
    if isinstance(value, int):
        return value
    total = 0
    for monomial, factor in value.terms:
        for symbol in monomial:
            if symbol not in env:
                raise IRError(f"dimension {value} uses symbol {symbol}, whose value is not known")
            factor *= env[symbol]
        total += factor
    return total


def bind(declared: Sequence[Shape], actual: Sequence[tuple[int, ...]], env: dict[str, int]) -> None:
    """Solve for the symbols of declared shapes from concrete ones, adding them to `env`.

    A dimension that is linear in one unknown symbol (`T`, `S+1`, `T*P` once P is known) determines it.

    Raises:
        IRError: a rank or dimension disagrees, or a symbol is not determined.
    """
    pairs: list[tuple[DimLike, int]] = []
    for shape_, sizes in zip(declared, actual, strict=True):
        if len(shape_) != len(sizes):
            raise IRError("a tensor has the wrong rank", expected=_text(shape_), found=str(list(sizes)))
        pairs += zip(shape_, sizes, strict=True)
    unsolved = pairs
    while unsolved:
        waiting = [(want, got) for want, got in unsolved if not _solve(want, got, env)]
        if len(waiting) == len(unsolved):
            names = ", ".join(str(want) for want, _ in waiting)
            raise IRError(f"the inputs do not determine {names}", fix="give an input of shape [symbol]")
        unsolved = waiting
    for want, got in pairs:
        if resolve(want, env) != got:
            raise IRError("a tensor has the wrong shape", expected=f"a dimension {want} with {env}", found=str(got))


def _solve(want: DimLike, got: int, env: dict[str, int]) -> bool:
    """Whether all symbols of `want` are known, after solving for the only one that was not."""
    if isinstance(want, int) or want.symbols <= env.keys():
        return True
    unknown = want.symbols - env.keys()
    holding = [term for term in want.terms if unknown & set(term[0])]
    if len(unknown) > 1 or len(holding) > 1 or holding[0][0].count(min(unknown)) > 1:
        return False
    monomial, factor = holding[0]
    rest = Dim(tuple(t for t in want.terms if t not in holding))
    by = factor * math.prod(env[s] for s in monomial if s not in unknown)
    value = got - resolve(rest, env)
    if not by or value % by or value // by < 0:
        raise IRError(f"dimension {want} cannot be {got}", found=f"{env}")
    env[min(unknown)] = value // by
    return True


def _text(dims: Shape) -> str:
    return str([str(d) for d in dims])


def _terms(value: DimLike) -> tuple[tuple[Monomial, int], ...]:
    return value.terms if isinstance(value, Dim) else (((), value),)


def _combine(terms: Iterable[tuple[Monomial, int]]) -> DimLike:
    total: dict[Monomial, int] = {}
    for monomial, factor in terms:
        total[monomial] = total.get(monomial, 0) + factor
    kept = {m: f for m, f in total.items() if f}
    if not any(kept):
        return kept.get((), 0)
    return Dim(tuple(sorted(kept.items(), key=lambda item: (-len(item[0]), item[0]))))
