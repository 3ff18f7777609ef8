"""Common subexpression elimination: of equal pure ops with equal operands, the first serves all."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function, functions
from warploom.ir.rewrite import is_pure, replace

Key = tuple[str, tuple[mlir.Value, ...], str, tuple[str, ...]]


def cse(module: mlir.Module) -> None:
    """Merge equal ops within each function."""
    for function in functions(module).values():
        _merge(function)


def _merge(function: Function) -> None:
    seen: dict[Key, mlir.Operation] = {}
    for operation in function.ops:
        if not is_pure(operation):
            continue
        key = _key(operation)
        if key in seen:
            replace(operation, list(seen[key].results))
        else:
            seen[key] = operation


def _key(operation: mlir.Operation) -> Key:
    attributes = ", ".join(sorted(f"{name}={attr}" for name, attr in operation.attributes.items()))
    types = tuple(str(r.type) for r in operation.results)
    return operation.name, tuple(operation.operands), attributes, types
