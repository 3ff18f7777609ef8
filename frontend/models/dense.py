"""Linear layers and small arithmetic on activations."""

from __future__ import annotations

from collections.abc import Sequence

import mlir.ir as mlir

from warploom.frontend.models.weights import Weights
from warploom.ir.ops.elementwise import add, as_dtype, mul
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import along_columns
from warploom.ir.ops.shape import full, slice_axis
from warploom.ir.types import DType, type_of


def dense(weights: Weights, x: mlir.Value, n: int, *, bias: bool = False) -> mlir.Value:
    """x [T, K] @ W^T for the module's `weight` [n, K], plus its `bias` [n] if it has one."""
    weight = weights("weight", (n, width(x)))
    return project(x, weight, weights("bias", (n,)) if bias else None)


def project(x: mlir.Value, weight: mlir.Value, bias: mlir.Value | None = None) -> mlir.Value:
    """x [T, K] @ weight^T for a weight [N, K], plus a bias [N]."""
    n = type_of(weight).shape[0]
    assert isinstance(n, int)
    y: mlir.Value = linear(x, weight, n=n, layout="row")
    if bias is None:
        return y
    result: mlir.Value = add(y, along_columns(as_dtype(bias, type_of(y).dtype), y))
    return result


def split(x: mlir.Value, sizes: Sequence[int]) -> list[mlir.Value]:
    """Neighbouring ranges of the last axis."""
    axis, start, parts = type_of(x).rank - 1, 0, []
    for size in sizes:
        parts.append(slice_axis(x, axis=axis, start=start, stop=start + size))
        start += size
    return parts


def scaled(x: mlir.Value, factor: float) -> mlir.Value:
    """x * factor in f32, rounded to the dtype of x."""
    if factor == 1.0:
        return x
    type_ = type_of(x)
    wide = mul(as_dtype(x, DType.F32), full(shape=type_.shape, value=factor, dtype="f32"))
    return as_dtype(wide, type_.dtype)


def width(x: mlir.Value) -> int:
    """The static size of the last axis."""
    size = type_of(x).shape[-1]
    assert isinstance(size, int)
    return size
