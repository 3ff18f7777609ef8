"""Give every weight the layout that the target's kernel asks for.

A `pack` of the weight appears in `@step` and is moved to `@prepare` by `hoist_weights`. An embedding that shares its
table with a linear reads the packed table too, so that the table is stored once.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.linear import embed, linear, pack, quantized_embed, quantized_linear
from warploom.ir.ops.shape import slice_axis
from warploom.ir.rewrite import entries, is_op, is_weight, users
from warploom.ir.types import type_of
from warploom.passes.target import Target


def assign_layouts(module: mlir.Module, target: Target) -> None:
    """Pack the weights of all linears."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, linear, quantized_linear) and is_weight(operation.operands[1]):
                _assign(operation, target.layout(operation, feeds_swiglu(operation)))


def feeds_swiglu(operation: mlir.Operation) -> bool:
    """Whether a linear's result is used as gate (first half) and up (second half) of one SwiGLU and nowhere else."""
    halves = users(operation.results[0])
    if len(halves) != 2 or not all(is_op(h, slice_axis) for h in halves):
        return False
    gate, up = sorted(halves, key=lambda h: int(slice_axis.attrs_of(h)["start"]))
    n = linear.attrs_of(operation)["n"]
    axis = type_of(operation.results[0]).rank - 1
    wanted = [{"axis": axis, "start": 0, "stop": n // 2}, {"axis": axis, "start": n // 2, "stop": n}]
    consumers = [users(h.results[0]) for h in (gate, up)]
    return (
        n % 2 == 0
        and [slice_axis.attrs_of(h) for h in (gate, up)] == wanted
        and all(len(c) == 1 and is_op(c[0], swiglu) for c in consumers)
        and list(consumers[0][0].operands) == [gate.results[0], up.results[0]]
    )


def _assign(operation: mlir.Operation, layout: str) -> None:
    """Pack the weight for this op and for the embeddings that share it."""
    weight = operation.operands[1]
    if linear.attrs_of(operation)["layout"] != "row" or layout == "row":
        return
    with mlir.InsertionPoint.after(weight.owner.operation), operation.location:
        packed = pack(weight, layout=layout)
    sharing = [op for op in users(weight) if is_op(op, embed, quantized_embed)] if layout == "panel" else []
    for reader in (operation, *sharing):
        reader.operands[1] = packed
        reader.attributes["layout"] = mlir.StringAttr.get(layout)
