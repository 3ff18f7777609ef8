"""Columns in another order: what a weight that was quantized in the order of its columns' importance needs.

GPTQ's `desc_act` (Frantar et al. 2022; AutoGPTQ calls it act-order) sorts columns before it cuts them into
groups. An order is i32 [K], every column once: place i holds column order[i].
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.op import Chooser, Op, Operand
from warploom.ir.ops.shape import constant, full, gather, scatter, transpose
from warploom.ir.types import DType, TensorType, tensor, type_of

ORDER = Operand("order", frozenset({DType.I32}))
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class TakeColumns(Op):
    """y[.., i] = x[.., order[i]]."""

    name = "take_columns"
    operands = (Operand("x"), ORDER)

    def infer(self, x: TensorType, order: TensorType) -> TensorType:
        """The type of x."""
        return _ordered(x, order)

    def evaluate(self, x: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Integer-array indexing."""
        return x[..., order]

    def decompose(self, x: mlir.Value, order: mlir.Value) -> mlir.Value:
        """A gather of rows of the transposed."""
        return _back(gather(_columns_first(x), order))

    def generate(self, choose: Chooser) -> Generated:
        """Columns turned round by some places."""
        return _generated(choose)


class PlaceColumns(Op):
    """y[.., order[i]] = x[.., i]: the inverse of `take_columns`."""

    name = "place_columns"
    operands = (Operand("x"), ORDER)

    def infer(self, x: TensorType, order: TensorType) -> TensorType:
        """The type of x."""
        return _ordered(x, order)

    def evaluate(self, x: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Integer-array assignment."""
        result = np.empty_like(x)
        result[..., order] = x
        return result

    def decompose(self, x: mlir.Value, order: mlir.Value) -> mlir.Value:
        """A scatter of rows of the transposed."""
        columns = _columns_first(x)
        type_ = type_of(columns)
        return _back(scatter(full(shape=type_.shape, value=0.0, dtype=type_.dtype.value), order, columns))

    def generate(self, choose: Chooser) -> Generated:
        """Columns turned round by some places."""
        return _generated(choose)


def _ordered(x: TensorType, order: TensorType) -> TensorType:
    if not x.rank or not isinstance(x.shape[-1], int) or not order.matches(tensor(x.shape[-1:], DType.I32)):
        raise IRError("an order names every column of x once", expected=f"i32 [K] for x [.., K] {x}", found=str(order))
    return x


def _columns_first(x: mlir.Value) -> mlir.Value:
    last = type_of(x).rank - 1
    result: mlir.Value = transpose(x, permutation=(last, *range(last)))
    return result


def _back(x: mlir.Value) -> mlir.Value:
    rank = type_of(x).rank
    result: mlir.Value = transpose(x, permutation=(*range(1, rank), 0))
    return result


def _generated(choose: Chooser) -> Generated:
    columns = choose.integer(1, 6)
    x = choose.like(tensor((choose.symbol(), columns), choose.choice([DType.F32, DType.BF16])))
    return [x, constant(value=np.roll(np.arange(columns, dtype=np.int32), choose.integer(0, 5)))], {}


take_columns, place_columns = TakeColumns(), PlaceColumns()
