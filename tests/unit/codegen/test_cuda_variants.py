"""Which variants of a group are live, and that one always is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.codegen.cuda.kernel import Guard, Step, Variant
from warploom.codegen.cuda.variants import NO_END, after, consecutive, live_variants
from warploom.errors import CompileError
from warploom.ir.dims import DimRange


def variant(name: str, when: Guard | None) -> Variant:
    return Variant((Step(cast(Any, SimpleNamespace(name=name)), (), {}),), when)


def ranges(*ends: int) -> list[Variant]:
    """Variants up to each end, from 1 on."""
    return [variant(str(n), when) for n, when in enumerate(consecutive("T", ends, first=1))]


@given(
    ends=st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted),
    low=st.integers(1, 40),
    span=st.integers(0, 40),
)
def test_for_every_value_exactly_the_variant_of_its_range_is_left(ends: list[int], low: int, span: int) -> None:
    variants, high = ranges(*ends), low + span
    dims = {"T": DimRange(low, high)}
    if ends[-1] < high:
        with pytest.raises(CompileError):
            live_variants("g", variants, dims)
        return
    live = live_variants("g", variants, dims)
    for value in range(low, high + 1):
        holding = [v for v in live if v.when is None or v.when.min <= value <= v.when.max]
        assert len(holding) == 1
        assert int(holding[0].steps[0].spec.name) == sum(value > end for end in ends)
    if len(live) == 1:
        assert live[0].when is None


def test_consecutive_ranges_leave_nothing_out() -> None:
    found = list(consecutive("T", (4, 9, None)))
    assert [(when.min, when.max) for when in found] == [(-NO_END, 4), (5, 9), (10, NO_END)]


def test_what_comes_after_a_value_is_for_larger_ones_only() -> None:
    found = [cast(Guard, one.when) for one in after(6, ranges(4, 9, 20))]
    assert [(when.min, when.max) for when in found] == [(7, 9), (10, 20)]


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ([Guard("T", 1, 4), Guard("T", 6, 100)], "leave out or repeat"),
        ([Guard("T", 1, 4), Guard("T", 4, 100)], "leave out or repeat"),
        ([Guard("T", 2, 100)], "leave out or repeat"),
        ([Guard("T", 1, 4), Guard("R", 5, 100)], "not guarded by one value"),
        ([Guard("T", 1, 4), None], "not guarded by one value"),
        ([Guard("T", 1, 99)], "takes T above 99"),
        ([Guard("T", 200, 300)], "takes T above 0"),
    ],
    ids=str,
)
def test_gaps_and_overlaps_are_refused(guards: list[Guard | None], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        live_variants("g", [variant("k", guard) for guard in guards], {"T": DimRange(1, 100)})


def test_a_kernel_for_all_dims_needs_no_guard() -> None:
    alone = variant("k", None)
    assert live_variants("g", [alone], {"T": DimRange(1, 100)}) == (alone,)


def test_a_guard_on_a_difference_of_dims_keeps_both_sides() -> None:
    dims = {"T": DimRange(1, 8192), "S": DimRange(1, 256)}
    decode, chunks = Variant((), Guard("T - S", -(2**31), 0)), Variant((), Guard("T - S", 1, 2**31))
    assert live_variants("attention", (decode, chunks), dims) == (decode, chunks)


def test_no_rows_need_no_variant() -> None:
    one, more = Variant((), Guard("R", 1, 1)), Variant((), Guard("R", 2, 2**31))
    assert live_variants("head", (one, more), {"R": DimRange(0, 64)}) == (one, more)
