"""Core ops that reduce, scan or order one axis, and the general contraction."""

from __future__ import annotations

import math
from typing import ClassVar

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike, equal
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.types import FLOATS, INTS, DType, TensorType, tensor, type_of

NUMBERS = FLOATS | INTS
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Reduction(Op):
    """Base of ops that fold one axis away."""

    operands = (Operand("x", NUMBERS),)
    attributes: ClassVar[tuple[Attribute, ...]] = (Attribute("axis", Kind.INT),)

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        """The shape without that axis."""
        _check_axis(x, axis)
        return x.with_shape(x.shape[:axis] + x.shape[axis + 1 :])

    def generate(self, choose: Chooser) -> Generated:
        """Any axis of any value."""
        x = choose.value(self.operands[0].dtypes, min_rank=1)
        return [x], {"axis": choose.integer(0, type_of(x).rank - 1)}


class ReduceSum(Reduction):
    """Sum over an axis; floats accumulate in f32."""

    name = "reduce_sum"

    def evaluate(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        """np.sum in the accumulator's dtype."""
        return x.sum(axis, dtype=x.dtype)


class ReduceMax(Reduction):
    """Maximum over an axis."""

    name = "reduce_max"

    def evaluate(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        """np.max."""
        return x.max(axis)


class ReduceMin(Reduction):
    """Minimum over an axis."""

    name = "reduce_min"

    def evaluate(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        """np.min."""
        return x.min(axis)


class Argmax(Reduction):
    """Index of the maximum of the last axis; the lowest index wins ties."""

    name = "argmax"
    attributes: ClassVar[tuple[Attribute, ...]] = ()

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        """i32 without the last axis."""
        _check_axis(x, x.rank - 1)
        return tensor(x.shape[:-1], DType.I32)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """np.argmax."""
        return x.argmax(-1).astype(np.int32)

    def generate(self, choose: Chooser) -> Generated:
        """Any value."""
        return [choose.value(NUMBERS, min_rank=1)], {}


class Cumsum(Op):
    """Inclusive running sum of the last axis."""

    name = "cumsum"
    operands = (Operand("x", NUMBERS),)

    def infer(self, x: TensorType) -> TensorType:
        """The type of x."""
        _check_axis(x, x.rank - 1)
        return x

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """np.cumsum."""
        return np.cumsum(x, -1, dtype=x.dtype)

    def generate(self, choose: Chooser) -> Generated:
        """Any value."""
        return [choose.value(NUMBERS, min_rank=1)], {}


class TopK(Op):
    """The k largest of the last axis, descending, with their indices; the lowest index wins ties."""

    name = "top_k"
    operands = (Operand("x", frozenset({DType.F32, DType.I32})),)
    attributes = (Attribute("k", Kind.INT),)
    results = ("values", "indices")

    def infer(self, x: TensorType, *, k: int) -> tuple[TensorType, TensorType]:
        """The last axis becomes k."""
        _check_axis(x, x.rank - 1)
        size = x.shape[-1]
        if not isinstance(size, int) or not 1 <= k <= size:
            raise IRError("k must be within a static last axis", expected=f"1..{size}", found=str(k))
        return x.with_shape((*x.shape[:-1], k)), tensor((*x.shape[:-1], k), DType.I32)

    def evaluate(self, x: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """A stable sort of the negated values."""
        order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
        return np.take_along_axis(x, order, -1), order.astype(np.int32)

    def generate(self, choose: Chooser) -> Generated:
        """A value with a static last axis."""
        x = choose.like(tensor((choose.symbol(), 6)))
        return [x], {"k": choose.integer(1, 6)}


class Sort(Op):
    """The last axis in descending order."""

    name = "sort"
    operands = (Operand("x", frozenset({DType.F32, DType.I32})),)

    def infer(self, x: TensorType) -> TensorType:
        """The type of x."""
        _check_axis(x, x.rank - 1)
        return x

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """np.sort, reversed."""
        return np.sort(x, -1)[..., ::-1]

    def generate(self, choose: Chooser) -> Generated:
        """Any value."""
        return [choose.value(self.operands[0].dtypes, min_rank=1)], {}


class DotGeneral(Op):
    """Contraction: result dimensions are batch, then free of x, then free of y; accumulates in f32.

    The dimension lists are those of StableHLO's `dot_general`.
    """

    name = "dot_general"
    operands = (Operand("x", FLOATS), Operand("y", FLOATS))
    attributes = (
        Attribute("x_contract", Kind.INTS),
        Attribute("y_contract", Kind.INTS),
        Attribute("x_batch", Kind.INTS),
        Attribute("y_batch", Kind.INTS),
    )

    def infer(self, x: TensorType, y: TensorType, **dims: tuple[int, ...]) -> TensorType:
        """The dtype of x; contracted and batch sizes must agree."""
        used_x, used_y = dims["x_batch"] + dims["x_contract"], dims["y_batch"] + dims["y_contract"]
        if len(dims["x_batch"]) != len(dims["y_batch"]) or len(used_x) != len(used_y):
            raise IRError("x and y list different numbers of dimensions", found=str(dims))
        if len(set(used_x)) != len(used_x) or len(set(used_y)) != len(used_y):
            raise IRError("a dimension is listed twice", found=str(dims))
        for i, j in zip(used_x, used_y, strict=True):
            if not (0 <= i < x.rank and 0 <= j < y.rank and equal(x.shape[i], y.shape[j])):
                raise IRError(f"dimension {i} of x does not fit dimension {j} of y", expected=str(x), found=str(y))
        batch = [x.shape[i] for i in dims["x_batch"]]
        return x.with_shape((*batch, *_free(x, used_x), *_free(y, used_y)))

    def evaluate(self, x: np.ndarray, y: np.ndarray, **dims: tuple[int, ...]) -> np.ndarray:
        """Matrix products over flattened free dimensions."""
        left, left_free = _as_matrices(x, dims["x_batch"], dims["x_contract"])
        right, right_free = _as_matrices(y, dims["y_batch"], dims["y_contract"])
        batch = tuple(x.shape[i] for i in dims["x_batch"])
        return np.matmul(left, right.swapaxes(-1, -2)).reshape(batch + left_free + right_free)

    def generate(self, choose: Chooser) -> Generated:
        """Rows times a matrix, or two batches of matrices."""
        k, n = choose.integer(1, 6), choose.integer(1, 6)
        rows = choose.symbol()
        if choose.integer(0, 1):
            operands = [choose.like(tensor((rows, k))), choose.like(tensor((n, k)))]
            return operands, {"x_contract": (1,), "y_contract": (1,), "x_batch": (), "y_batch": ()}
        operands = [choose.like(tensor((2, rows, k))), choose.like(tensor((k, 2, n)))]
        return operands, {"x_contract": (2,), "y_contract": (0,), "x_batch": (0,), "y_batch": (1,)}


def _free(x: TensorType, used: tuple[int, ...]) -> list[DimLike]:
    return [d for i, d in enumerate(x.shape) if i not in used]


def _as_matrices(
    x: np.ndarray, batch: tuple[int, ...], contract: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """x as [*batch, product of free, product of contracted], and the free sizes."""
    free = tuple(i for i in range(x.ndim) if i not in batch + contract)
    lead, free_shape, contracted = (tuple(x.shape[i] for i in axes) for axes in (batch, free, contract))
    matrices = x.transpose(batch + free + contract).reshape(*lead, math.prod(free_shape), math.prod(contracted))
    return matrices, free_shape


def _check_axis(x: TensorType, axis: int) -> None:
    if not 0 <= axis < x.rank:
        raise IRError(f"there is no axis {axis}", found=str(x))


reduce_sum, reduce_max, reduce_min = ReduceSum(), ReduceMax(), ReduceMin()
argmax, cumsum, top_k, sort = Argmax(), Cumsum(), TopK(), Sort()
dot_general = DotGeneral()
