"""Values that are columns of a matrix, such as q, k and v of one projection. Target independent."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.dims import product
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import type_of


@dataclass(frozen=True, slots=True)
class Range:
    """Columns from `start` on of a matrix [T, stride]."""

    start: int
    stride: int

    def __str__(self) -> str:
        return f"{self.start}of{self.stride}"


@dataclass(frozen=True, slots=True)
class Columns:
    """A value [T, ..] as a range of columns of a matrix [T, stride]: element (t, i) is matrix[t, start + i]."""

    matrix: mlir.Value
    stride: int
    start: int

    @property
    def range(self) -> Range:
        """Which columns of the matrix."""
        return Range(self.start, self.stride)


def columns_of(value: mlir.Value) -> Columns | str:
    """Follow reshapes and one slice of the last axis of a matrix up to where a value comes from."""
    tokens, start = type_of(value).shape[0], 0
    while (operation := producer(value, reshape, slice_axis)) is not None:
        source = operation.operands[0]
        shape = type_of(source).shape
        if is_op(operation, slice_axis):
            attrs = slice_axis.attrs_of(operation)
            if len(shape) != 2 or shape[0] != tokens or attrs["axis"] != 1:
                return f"a slice of {type_of(source)} is no range of columns"
            start += attrs["start"]
        value = source
    shape = type_of(value).shape
    stride = product(shape[1:])
    if not shape or shape[0] != tokens or not isinstance(stride, int):
        return f"{type_of(value)} is no matrix of tokens"
    return Columns(value, stride, start)
