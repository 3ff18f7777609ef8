"""What follows a linear in its group, whatever computes it. Target independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mlir.ir as mlir

from warploom.ir.function import Function
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import add
from warploom.ir.patterns import feeds_swiglu
from warploom.ir.rewrite import defining_op, is_op


@dataclass(frozen=True, slots=True)
class Epilogue:
    """How many ops follow, which further operands they have by name, and the value that the group returns."""

    kind: Literal["residual", "swiglu"] | None
    ops: int
    operands: dict[str, mlir.Value]
    result: mlir.Value


def read_epilogue(group: Function, hero: mlir.Operation, y: mlir.Value) -> Epilogue | str:
    """What becomes of `y`, the product of the hero, with its bias if it has one; or why that is no epilogue."""
    (result,) = group.results.values()
    last = defining_op(result)
    if result == y:
        return Epilogue(None, 0, {}, result)
    if last is not None and is_op(last, add) and y in (values := list(last.operands)):
        residual = values[1 - values.index(y)]
        return (
            Epilogue("residual", 1, {"residual": residual}, result)
            if residual != y
            else "it adds the product to itself"
        )
    if is_op(last, swiglu) and feeds_swiglu(hero):
        return Epilogue("swiglu", 3, {}, result)
    return f"no epilogue for {last.name if last is not None else 'an input'}"
