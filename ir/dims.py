"""Symbolic dimensions: polynomials with integer coefficients over named symbols such as `T` or `S`.

A dimension of a tensor is an `int` or a `Dim`. Comparing two dimensions either has one answer for every value of
the symbols or is refused with an `IRError` (the rule of JAX's shape polymorphism: never guess).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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
        return self + scale(other, -1)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: DimLike) -> DimLike:
        return scale(self, -1) + other

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
    text = value.replace(" ", "")
    if not re.fullmatch(r"-?[A-Za-z0-9_*]+([+-][A-Za-z0-9_*]+)*", text):
        raise IRError(f"{value!r} is not a dimension", expected="an integer or a polynomial such as 'S+1'")
    terms = []
    for sign, body in re.findall(r"([+-]?)([^+-]+)", text):
        factors = body.split("*")
        number = -1 if sign == "-" else 1
        for factor in factors:
            number *= int(factor) if factor.isdigit() else 1
        terms.append((tuple(sorted(f for f in factors if not f.isdigit())), number))
    return _combine(terms)


def shape(dims: Iterable[DimLike | str]) -> Shape:
    """A tuple of dimensions from integers, symbols and expressions."""
    return tuple(dim(d) for d in dims)


def product(dims: Iterable[DimLike]) -> DimLike:
    """Number of elements of a shape."""
    result: DimLike = 1
    for d in dims:
        result = result * d
    return result


def scale(value: DimLike, factor: int) -> DimLike:
    """`value * factor`, for either kind."""
    return value * factor


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


def bind(declared: Shape, actual: tuple[int, ...], env: dict[str, int]) -> None:
    """Solve for the symbols of `declared` from a concrete shape, adding them to `env`.

    Only linear dimensions in one symbol (`T`, `S+1`) introduce a symbol; all others are checked afterwards.

    Raises:
        IRError: rank or a dimension disagrees.
    """
    if len(declared) != len(actual):
        raise IRError("wrong rank", expected=str([str(d) for d in declared]), found=str(list(actual)))
    for want, got in zip(declared, actual, strict=True):
        if isinstance(want, Dim) and not want.symbols <= env.keys():
            _solve(want, got, env)
        if resolve(want, env) != got:
            raise IRError(
                "a tensor has the wrong shape",
                expected=f"{[str(d) for d in declared]} with {env}",
                found=str(list(actual)),
            )


def _solve(want: Dim, got: int, env: dict[str, int]) -> None:
    unknown = [(m, c) for m, c in want.terms if m]
    if len(unknown) != 1 or len(unknown[0][0]) != 1:
        raise IRError(f"dimension {want} does not determine its symbols", fix="give an input of shape [symbol]")
    (symbol,), factor = unknown[0]
    rest = got - sum(c for m, c in want.terms if not m)
    if rest % factor:
        raise IRError(f"dimension {want} cannot be {got}")
    env[symbol] = rest // factor


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
