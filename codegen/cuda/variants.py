"""The ranges that variants of a group are for: which can be chosen, and the proof that one always is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from warploom.codegen.cuda.kernel import Guard, Variant
from warploom.errors import CompileError
from warploom.ir.dims import DimRange
from warploom.runtime.expr import Expr, evaluate, names

NO_END = 2**31 - 1


def consecutive(value: Expr, ends: Iterable[int | None], first: int = -NO_END) -> Iterator[Guard]:
    """Ranges of a value that follow one another from `first` on, by their last numbers; None: without end."""
    for end in ends:
        last = NO_END if end is None else end
        yield Guard(value, first, last)
        first = last + 1


def after(value: int, variants: Iterable[Variant]) -> Iterator[Variant]:
    """The variants for what is above a value, those that begin below it from there on."""
    for variant in variants:
        when = variant.when
        if when is not None and when.max > value:
            yield Variant(variant.steps, Guard(when.value, max(value + 1, when.min), when.max))


def live_variants(group: str, variants: Sequence[Variant], dims: Mapping[str, DimRange]) -> tuple[Variant, ...]:
    """The variants that can hold; one that always holds loses its guard.

    Args:
        group: for messages.
        variants: all on one value, by rising ranges.
        dims: of the entry.

    Raises:
        CompileError: for some dims no variant holds, or more than one.
    """
    if len(variants) == 1 and variants[0].when is None:
        return tuple(variants)
    guards = [variant.when for variant in variants if variant.when is not None]
    if len(guards) != len(variants) or len({guard.value for guard in guards}) != 1:
        raise CompileError(f"the variants of @{group} are not guarded by one value", found=f"{guards}")
    value = guards[0].value
    low, high = _bounds(value, dims)
    if value in dims:
        low = max(low, 1)  # of no rows there is nothing to compute, so no variant need hold
    live = [v for v in variants if v.when is not None and v.when.min <= high and v.when.max >= low]
    edges = [low - 1]
    for variant in live:
        assert variant.when is not None
        if variant.when.min > edges[-1] + 1 or (len(edges) > 1 and variant.when.min != edges[-1] + 1):
            raise CompileError(
                f"the variants of @{group} leave out or repeat values of {value}",
                expected=f"ranges that partition {low} to {high}",
                found=f"{[(g.min, g.max) for g in guards]}",
            )
        edges.append(variant.when.max)
    if edges[-1] < high:
        raise CompileError(f"no variant of @{group} takes {value} above {edges[-1]}", expected=f"up to {high}")
    return (Variant(live[0].steps),) if len(live) == 1 else tuple(live)


def _bounds(value: Expr, dims: Mapping[str, DimRange]) -> tuple[int, int]:
    """Least and largest value of an expression that is monotone in each dim: found at the corners of the ranges."""
    used = sorted(names(value))
    corners = product(*((dims[name].min, dims[name].max) for name in used))
    values = [evaluate(value, dict(zip(used, corner, strict=True))) for corner in corners]
    return min(values), max(values)
