"""Symbolic dimensions agree with arithmetic, and never guess."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.errors import IRError
from warploom.ir.dims import Dim, DimLike, bind, dim, equal, product, resolve, same_shape, shape

SYMBOLS = ("T", "S", "P")
OPERATORS: tuple[Callable[[DimLike, DimLike], DimLike], ...] = (operator.add, operator.sub, operator.mul)
ENVIRONMENTS = st.fixed_dictionaries({s: st.integers(0, 50) for s in SYMBOLS})


def combine(children: st.SearchStrategy[DimLike]) -> st.SearchStrategy[DimLike]:
    return st.builds(lambda f, a, b: f(a, b), st.sampled_from(OPERATORS), children, children)


DIMS = st.recursive(st.integers(-9, 9) | st.sampled_from([dim(s) for s in SYMBOLS]), combine, max_leaves=8)


@given(DIMS, DIMS, ENVIRONMENTS)
def test_arithmetic_is_that_of_the_values(a: DimLike, b: DimLike, env: dict[str, int]) -> None:
    for apply in OPERATORS:
        assert resolve(apply(a, b), env) == apply(resolve(a, env), resolve(b, env))
    assert resolve(product([a, b, 3]), env) == resolve(a, env) * resolve(b, env) * 3


@given(DIMS)
def test_text_round_trip(a: DimLike) -> None:
    assert dim(str(a)) == a
    assert str(dim(str(a))) == str(a)


@given(DIMS, DIMS)
def test_equal_polynomials_are_the_same_object_of_thought(a: DimLike, b: DimLike) -> None:
    """One polynomial has one form, so `==`, hash and text agree."""
    assert (a + b) * 2 == 2 * b + a * 2
    assert hash((a + b) * 2) == hash(2 * b + a * 2)
    assert isinstance(a - a, int)


@given(DIMS, DIMS, ENVIRONMENTS)
def test_a_decided_comparison_holds_for_every_value(a: DimLike, b: DimLike, env: dict[str, int]) -> None:
    try:
        answer = equal(a, b)
    except IRError:
        assert isinstance(a - b, Dim)
        return
    assert answer == (resolve(a, env) == resolve(b, env))


def test_an_undecidable_comparison_says_what_to_do() -> None:
    assert equal(dim("T+1"), dim("1+T"))
    assert not equal(dim("T"), dim("T+1"))
    with pytest.raises(IRError, match=r"(?s)T and S.*fix: use the same symbol"):
        equal(dim("T"), dim("S"))
    with pytest.raises(IRError, match="cannot decide"):
        equal(dim("2*T"), dim("T"))
    assert not same_shape(shape(["T", 4]), shape(["T"]))


@pytest.mark.parametrize("text", ["", " ", "T S", "2T", "T**2", "*T", "T+", "T/2", "+T", "T--1", "ä", "T.x", "(T)"])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(IRError, match="is not a dimension"):
        dim(text)


def test_spaces_and_signs() -> None:
    assert dim(" S + 1 ") == dim("S+1") == dim("1+S")
    assert dim("-2*T*P+3*P*T") == dim("P*T")
    assert dim("-3") == -3
    assert dim("T*0") == 0


@given(ENVIRONMENTS)
def test_binding_solves_what_inputs_determine(env: dict[str, int]) -> None:
    env = {k: v + 1 for k, v in env.items()}
    declared = [shape(["T*S", "P"]), shape(["S+1", 3]), shape(["2*T-1"])]  # the first is solved last
    found: dict[str, int] = {}
    bind(declared, [tuple(resolve(d, env) for d in s) for s in declared], found)
    assert found == env


@pytest.mark.parametrize(
    ("declared", "actual", "message"),
    [
        ([("T",)], [(3, 1)], "wrong rank"),
        ([("T",), ("T",)], [(3,), (4,)], "wrong shape"),
        ([(4,)], [(5,)], "wrong shape"),
        ([("2*T",)], [(5,)], "cannot be 5"),
        ([("S+1",)], [(0,)], "cannot be 0"),
        ([("T*S",)], [(6,)], "do not determine"),
        ([("T*T",)], [(4,)], "do not determine"),
        ([("T+S",), ("T",)], [(3,), (5,)], "cannot be 3"),
    ],
)
def test_binding_refuses(declared: list[tuple[str | int, ...]], actual: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(IRError, match=message):
        bind([shape(s) for s in declared], actual, {})


def test_an_unknown_symbol_has_no_number() -> None:
    with pytest.raises(IRError, match="symbol S"):
        resolve(dim("S+1"), {"T": 3})
