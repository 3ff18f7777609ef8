"""Give every weight the layout that the target's kernel asks for.

A `pack` of the weight appears in `@step` and is moved to `@prepare` by `hoist_weights`. An embedding that shares its
table with a linear reads the packed table too, so that the table is stored once. Numbers of four bits never stay one a
byte: where the target asks for rows they are packed in `row4`.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.layouts import side_layout
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.packing import pack
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.patterns import feeds_swiglu, weight_operands
from warploom.ir.rewrite import entries, is_op, is_weight, users
from warploom.ir.target import Target
from warploom.ir.types import DType, type_of

EMBEDDINGS = (embed, quantized_embed)


def assign_layouts(module: mlir.Module, target: Target) -> None:
    """Pack the weights of all linears, then of the embeddings that are left."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, linear, quantized_linear, scaled_linear) and _is_packable(operation):
                _assign(operation, target.layout(operation, feeds_swiglu(operation)))
        for operation in function.ops:
            if is_op(operation, *EMBEDDINGS) and _is_packable(operation):
                _assign(operation, "row")


def _is_packable(operation: mlir.Operation) -> bool:
    return linear.attrs_of(operation)["layout"] == "row" and all(map(is_weight, weight_operands(operation)))


def _assign(operation: mlir.Operation, layout: str) -> None:
    """Pack the weight, its scales and offsets, for this op and for the embeddings that share them."""
    weights = weight_operands(operation)
    if layout == "row" and type_of(weights[0]).dtype is DType.I4:
        layout = "row4"
    if layout == "row":
        return
    sharing = [] if layout.endswith("_pair") else [op for op in users(weights[0]) if _shares(op, weights)]
    readers = [operation, *(op for op in sharing if op != operation)]
    for index, weight in enumerate(weights):
        with mlir.InsertionPoint.after(weight.owner.operation), operation.location:
            packed = pack(weight, layout=side_layout(layout) if index else layout)
        for reader in readers:
            first = len(reader.operands) - len(weights)
            reader.operands[first + index] = packed
    for reader in readers:
        reader.attributes["layout"] = mlir.StringAttr.get(layout)


def _shares(operation: mlir.Operation, weights: list[mlir.Value]) -> bool:
    return is_op(operation, *EMBEDDINGS) and weight_operands(operation) == weights
