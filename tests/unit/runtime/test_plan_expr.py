"""The plan's expression language: exact integers, and nothing but integers."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.errors import ArtifactError
from warploom.runtime.expr import compile_expr, evaluate, names, parse

DIMS = {"T": 5, "S": 3, "num_pages": 1 << 40}


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        (7, 7),
        ("T", 5),
        ("(T + 15) // 16 * 64", 64),
        ("max(T, S) - min(T, S, 1)", 4),
        ("-(-T // 2)", 3),
        ("num_pages * num_pages", 1 << 80),
    ],
)
def test_values(expr: str | int, value: int) -> None:
    assert evaluate(expr, DIMS) == value


@pytest.mark.parametrize(
    "expr",
    [
        "", "T +", "T.real", "f(T)", "max()", "max(x=1)", "max(*T)", "max", "T ** 2", "T % 2", "T / 2", "1.5",
        "True", "'a'", "T if S else 1", "[T]", "lambda: 1", "(T := 2)", "__import__('os')", "T\0",
        "(" * 900 + "1" + ")" * 900, "+".join("1" * 100_000),
    ],
)  # fmt: skip
def test_everything_else_is_refused(expr: str) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        parse(expr)


def test_unknown_names_and_division_by_zero_are_named() -> None:
    with pytest.raises(ArtifactError, match=r"unknown dim(.|\n)*found: Q"):
        compile_expr("T + Q", ["T"])
    with pytest.raises(ArtifactError, match="divides by zero"):
        evaluate("1 // (T - 5)", DIMS)


EXPRESSIONS = st.recursive(
    st.integers(0, 9).map(str) | st.sampled_from(sorted(DIMS)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"({text} // 7)"),
        st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        inner.map(lambda text: f"-{text}"),
    ),
)


@given(EXPRESSIONS)
def test_meaning_is_python_s(expr: str) -> None:
    assert evaluate(expr, DIMS) == eval(expr, {"max": max, "min": min}, dict(DIMS))
    assert names(expr) <= DIMS.keys()
    assert evaluate(ast.unparse(parse(expr)), DIMS) == evaluate(expr, DIMS)
