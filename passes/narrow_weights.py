"""Store weight matrices in the requested dtype: a cast in `@step`, which `hoist_weights` moves to `@prepare`."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import embed, linear
from warploom.ir.rewrite import before, entries, is_op, is_weight
from warploom.ir.types import DType, type_of


def narrow_weights(module: mlir.Module, dtype: DType) -> None:
    """Cast the weights of `linear` and `embed` to `dtype`; norms and biases stay as they are."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, linear, embed) and is_weight(operation.operands[1]):
                _narrow(operation, dtype)


def _narrow(operation: mlir.Operation, dtype: DType) -> None:
    if type_of(operation.operands[1]).dtype is not dtype:
        with before(operation):
            operation.operands[1] = cast(operation.operands[1], dtype=dtype.value)
