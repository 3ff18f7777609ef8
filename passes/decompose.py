"""Replace composites that no kernel took by their meaning in core ops."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.expand import expand
from warploom.ir.op import op_of
from warploom.ir.rewrite import before, entries, replace, rewrite_each


def decompose(module: mlir.Module) -> None:
    """Expand composites of the entries until only core ops are left."""
    rewrite_each(entries(module), _expand)


def _expand(operation: mlir.Operation) -> bool:
    op = op_of(operation)
    if op is None or op.decompose is None:
        return False
    with before(operation):
        values = expand(op, list(operation.operands), op.attrs_of(operation))
    replace(operation, values)
    return True
