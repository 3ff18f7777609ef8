"""Weight-only int8, one scale per output row: linears, and embeddings that share a table with one.

`quantize` appears in `@step` and is moved to `@prepare` by `hoist_weights`.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.linear import embed, linear, quantize, quantized_embed, quantized_linear
from warploom.ir.rewrite import before, entries, is_op, is_weight, replace, users


def quantize_weights(module: mlir.Module) -> None:
    """Quantize every weight matrix of a linear."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, linear) and _is_row_weight(operation):
                _quantize_uses(operation.operands[1], operation)


def _is_row_weight(operation: mlir.Operation) -> bool:
    return linear.attrs_of(operation)["layout"] == "row" and is_weight(operation.operands[1])


def _quantize_uses(weight: mlir.Value, first: mlir.Operation) -> None:
    """Rewrite all linears and embeddings that read a weight."""
    readers = [op for op in users(weight) if is_op(op, linear, embed)]
    with mlir.InsertionPoint.after(weight.owner.operation), first.location:
        q, scale = quantize(weight)
    for reader in readers:
        attrs = linear.attrs_of(reader)
        op = quantized_linear if is_op(reader, linear) else quantized_embed
        with before(reader):
            replace(reader, [op(reader.operands[0], q, scale, **attrs)])
