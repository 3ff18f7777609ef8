"""Dead code elimination by declared effects: unused ops, exports that nobody reads, groups that nobody calls."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import functions
from warploom.ir.op import op_of
from warploom.ir.ops.parameters import export, param
from warploom.ir.rewrite import is_pure
from warploom.ir.verify import PREPARE


def dce(module: mlir.Module) -> None:
    """Remove what does not contribute to a result."""
    for function in functions(module).values():
        if function.name != PREPARE:
            _remove_unused(function.ops)
    _remove_unread_exports(module)
    _remove_uncalled_groups(module)


def _remove_unused(operations: list[mlir.Operation]) -> None:
    for operation in reversed(operations):
        if is_pure(operation) and not any(list(r.uses) for r in operation.results):
            operation.erase()


def _remove_unread_exports(module: mlir.Module) -> None:
    found = functions(module)
    if PREPARE not in found:
        return
    read = {op.attributes["name"].value for function in found.values() for op in function.ops if op_of(op) is param}
    for operation in found[PREPARE].ops:
        if op_of(operation) is export and operation.attributes["name"].value not in read:
            operation.erase()
    _remove_unused(found[PREPARE].ops)


def _remove_uncalled_groups(module: mlir.Module) -> None:
    found = functions(module)
    called = {op.attributes["callee"].value for f in found.values() for op in f.ops if op.name == "func.call"}
    for name, function in found.items():
        if function.is_private and name not in called:
            function.operation.operation.erase()
