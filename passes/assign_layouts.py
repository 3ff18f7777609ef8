"""Give every weight the layout that the target's kernel asks for.

A `pack` of the weight appears in `@step` and is moved to `@prepare` by `hoist_weights`. An embedding that shares its
table with a linear reads the packed table too, so that the table is stored once.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.linear import embed, linear, pack, quantized_embed, quantized_linear
from warploom.ir.patterns import feeds_swiglu
from warploom.ir.rewrite import entries, is_op, is_weight, users
from warploom.ir.target import Target


def assign_layouts(module: mlir.Module, target: Target) -> None:
    """Pack the weights of all linears."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, linear, quantized_linear) and all(map(is_weight, _weights(operation))):
                _assign(operation, target.layout(operation, feeds_swiglu(operation)))


def _weights(operation: mlir.Operation) -> list[mlir.Value]:
    """The matrix, and its scales if it has any."""
    return list(operation.operands)[1:]


def _assign(operation: mlir.Operation, layout: str) -> None:
    """Pack the weight, and its scales, for this op and for the embeddings that share it."""
    weights = _weights(operation)
    if linear.attrs_of(operation)["layout"] != "row" or layout == "row":
        return
    readers = [op for op in users(weights[0]) if is_op(op, embed, quantized_embed) and _weights(op) == weights]
    sharing = readers if layout == "panel" else []
    for position, weight in enumerate(weights, 1):
        with mlir.InsertionPoint.after(weight.owner.operation), operation.location:
            packed = pack(weight, layout=layout)
        for reader in (operation, *sharing):
            reader.operands[position] = packed
    for reader in (operation, *sharing):
        reader.attributes["layout"] = mlir.StringAttr.get(layout)
