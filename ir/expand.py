"""Replacing a composite by its meaning in simpler ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlir.ir as mlir

from warploom.ir.op import Op
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.types import DType, type_of


def expand(op: Op, values: Sequence[mlir.Value], attrs: Mapping[str, Any]) -> tuple[mlir.Value, ...]:
    """Build the decomposition of a composite at the current insertion point.

    Decompositions are written for f32: narrower activations are widened before and results rounded once at the end,
    as kernels do.
    """
    assert op.decompose is not None
    results = op.result_types([type_of(v) for v in values], attrs)
    operands = [
        as_dtype(value, DType.F32) if operand.widened else value
        for operand, value in zip(op.operands, values, strict=False)
    ]
    expanded = op.decompose(*operands, **attrs)
    made = expanded if isinstance(expanded, tuple) else (expanded,)
    return tuple(as_dtype(value, type_.dtype) for value, type_ in zip(made, results, strict=True))
