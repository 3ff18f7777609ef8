"""The integer expressions of a plan: sizes, offsets and tile counts over an entry's dims.

Grammar (a subset of Python's, parsed by `ast` and checked against a whitelist, so evaluating is safe on
untrusted text): integers, dim names, `+ - * //`, unary `-`, `max(...)`, `min(...)`, parentheses. Ceiling
division is written `(a + b - 1) // b`. Evaluation is exact: Python integers do not overflow.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from warploom.errors import ArtifactError

Expr: TypeAlias = str | int

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv)
_FUNCTIONS = {"max": max, "min": min}


def parse(expr: Expr) -> ast.expr:
    """Return the checked syntax tree of `expr`.

    Its nodes are only `Constant` (int), `Name`, `UnaryOp` (USub), `BinOp` (Add, Sub, Mult, FloorDiv) and
    `Call` of `max` or `min` with at least one positional argument: what a code generator has to handle.

    Raises:
        ArtifactError: the text is not in the grammar.
    """
    try:
        tree = ast.parse(str(expr).strip(), mode="eval").body
        _check(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(
            f"The plan expression {str(expr)[:200]!r} is malformed",
            expected="integers, dim names, + - * //, max(), min() and parentheses",
            found=str(error),
            fix="compile the model again; if it recurs, report it",
        ) from error
    return tree


def _check(node: ast.expr) -> None:
    """Raise ValueError at the first node outside the grammar."""
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return
        case ast.Name(id=name) if name not in _FUNCTIONS:
            return
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            _check(left)
            _check(right)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in _FUNCTIONS:
            for argument in args:
                _check(argument)
        case _:
            raise ValueError(f"`{ast.unparse(node)}` is not allowed")


def names(expr: Expr) -> frozenset[str]:
    """Return the dim names that `expr` reads."""
    return frozenset(
        node.id for node in ast.walk(parse(expr)) if isinstance(node, ast.Name) and node.id not in _FUNCTIONS
    )


def compile_expr(expr: Expr, dims: Sequence[str]) -> Callable[..., int]:
    """Return a fast function of the dims' values, given positionally in the order of `dims`.

    Raises:
        ArtifactError: the text is not in the grammar, or reads a name outside `dims`.
    """
    return _compiled(expr, tuple(dims))


@lru_cache(maxsize=8192)
def _compiled(expr: Expr, dims: tuple[str, ...]) -> Callable[..., int]:
    """A plan has few expressions and uses each of them many times."""
    tree = parse(expr)
    unknown = names(expr) - set(dims)
    if unknown:
        raise ArtifactError(
            f"The plan expression {expr!r} reads an unknown dim",
            expected=f"dims {', '.join(dims) or '(none)'}",
            found=", ".join(sorted(unknown)),
            fix="compile the model again; if it recurs, report it",
        )
    return _function(tree, dims)


def compile_exprs(exprs: Sequence[Expr], dims: Sequence[str]) -> Callable[..., tuple[int, ...]]:
    """Return one fast function of the dims' values that gives the values of all `exprs`; see `compile_expr`."""
    for expr in exprs:
        compile_expr(expr, dims)  # names the one that is wrong
    return _function(ast.Tuple([parse(expr) for expr in exprs], ast.Load()), dims)


def _function(body: ast.expr, dims: Sequence[str]) -> Callable[..., Any]:
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in dims], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    function = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, body)))
    compiled: Callable[..., Any] = eval(compile(function, "<plan expression>", "eval"), {**_FUNCTIONS})
    return compiled


def evaluate(expr: Expr, dims: Mapping[str, int]) -> int:
    """Return the value of `expr` under `dims`.

    Raises:
        ArtifactError: the text is not in the grammar, reads an unknown name, or divides by zero.
    """
    try:
        return expr if isinstance(expr, int) else compile_expr(expr, tuple(dims))(*dims.values())
    except ZeroDivisionError as error:
        raise ArtifactError(f"The plan expression {expr!r} divides by zero", found=f"{dict(dims)}") from error
