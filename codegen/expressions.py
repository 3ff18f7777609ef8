"""Rewriting the plan's expressions: names replaced by expressions, and what became constant folded."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from warploom.runtime.expr import Expr, evaluate, names, parse

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """`expr` with every name replaced by its value, and folded; a number comes back as int.

    Raises:
        KeyError: `expr` reads a name without a value.
        ArtifactError: an expression is not in the grammar, or divides by the constant 0.
    """
    trees = {name: parse(value) for name, value in values.items()}
    text = ast.unparse(_Substitution(trees).visit(parse(expr)))
    return text if names(text) else evaluate(text, {})


class _Substitution(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._values[node.id]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return ast.Call(node.func, [self.visit(argument) for argument in node.args], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        return _fold(self.visit(node.left), node.op, self.visit(node.right))


def _fold(left: ast.expr, op: ast.operator, right: ast.expr) -> ast.expr:
    """`left op right`, shorter where a side is a constant."""
    match op, _number(left), _number(right):
        case (_, int() as first, int() as second) if second or not isinstance(op, ast.FloorDiv):
            return ast.Constant(_OPERATORS[type(op)](first, second))
        case (ast.Mult() | ast.FloorDiv(), _, 1) | (ast.Add() | ast.Sub(), _, 0):
            return left
        case (ast.Mult(), 1, _) | (ast.Add(), 0, _):
            return right
        case (ast.Mult(), 0, _) | (ast.Mult(), _, 0):
            return ast.Constant(0)
        case _:
            return ast.BinOp(left, op, right)


def _number(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            return -value
        case _:
            return None
