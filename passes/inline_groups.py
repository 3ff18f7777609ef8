"""Undo fusion: every call of a group becomes the group's ops again, so that any stage can be lowered anew."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function, functions
from warploom.ir.rewrite import copy_op, entries, replace


def inline_groups(module: mlir.Module) -> None:
    """Inline all groups; the decisions that made them stay recorded."""
    groups = {name: function for name, function in functions(module).items() if function.is_private}
    for function in entries(module):
        for operation in function.ops:
            if operation.name == "func.call":
                _inline(operation, groups[operation.attributes["callee"].value])
    for group in groups.values():
        group.operation.operation.erase()


def _inline(call: mlir.Operation, group: Function) -> None:
    """Put copies of the group's ops, with the call's location, before the call."""
    values = dict(zip(group.body.arguments, call.operands, strict=True))
    for operation in group.ops:
        with mlir.InsertionPoint(call), call.location:
            copy_op(operation, values)
    replace(call, [values[v] for v in group.terminator.operands])
