"""Core ops that move, make or index data without arithmetic on floats."""

from __future__ import annotations

from functools import reduce
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike, Shape, equal, product, same_shape
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.types import ALL, FLOATS, INTS, STORED, DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Reshape(Op):
    """The same elements in row-major order under another shape."""

    name = "reshape"
    operands = (Operand("x"),)
    attributes = (Attribute("shape", Kind.SHAPE),)

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        """The dtype with the new shape, if the number of elements agrees."""
        result = x.with_shape(shape)
        if not equal(product(x.shape), product(result.shape)):
            raise IRError("number of elements changes", expected=str(x), found=str(result))
        return result

    def evaluate(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        """np.reshape."""
        return x.reshape(shape)

    def generate(self, choose: Chooser) -> Generated:
        """Flatten, split off a unit dimension, or merge two neighbours."""
        x = choose.value(ALL)
        dims: list[DimLike] = list(type_of(x).shape)
        options: list[list[DimLike]] = [[product(dims)], [*dims, 1]]
        if len(dims) > 1:
            options.append([product(dims[:2]), *dims[2:]])
        return [x], {"shape": tuple(choose.choice(options))}


class Transpose(Op):
    """Permutation of the dimensions: result dimension i is operand dimension permutation[i]."""

    name = "transpose"
    operands = (Operand("x"),)
    attributes = (Attribute("permutation", Kind.INTS),)

    def infer(self, x: TensorType, *, permutation: tuple[int, ...]) -> TensorType:
        """The permuted shape."""
        if sorted(permutation) != list(range(x.rank)):
            raise IRError("not a permutation", expected=f"an order of 0..{x.rank - 1}", found=str(permutation))
        return x.with_shape(tuple(x.shape[p] for p in permutation))

    def evaluate(self, x: np.ndarray, *, permutation: tuple[int, ...]) -> np.ndarray:
        """np.transpose."""
        return x.transpose(permutation)

    def generate(self, choose: Chooser) -> Generated:
        """A rotation of the dimensions."""
        x = choose.value(ALL, min_rank=1)
        rank = type_of(x).rank
        by = choose.integer(0, rank - 1)
        return [x], {"permutation": tuple((i + by) % rank for i in range(rank))}


class Broadcast(Op):
    """Repetition into a larger shape: operand dimension i becomes result dimension dims[i]; size 1 stretches."""

    name = "broadcast"
    operands = (Operand("x"),)
    attributes = (Attribute("shape", Kind.SHAPE), Attribute("dims", Kind.INTS))

    def infer(self, x: TensorType, *, shape: Shape, dims: tuple[int, ...]) -> TensorType:
        """The given shape, if each mapped dimension is 1 or equal."""
        result = x.with_shape(shape)
        if len(dims) != x.rank or list(dims) != sorted(set(dims)) or not all(0 <= d < len(shape) for d in dims):
            raise IRError("dims must map each operand dimension, increasing", found=f"{dims} for {x}")
        for size, target in zip(x.shape, dims, strict=True):
            if size != 1 and not equal(size, result.shape[target]):
                raise IRError("a dimension cannot stretch", expected=f"1 or {result.shape[target]}", found=str(size))
        return result

    def evaluate(self, x: np.ndarray, *, shape: tuple[int, ...], dims: tuple[int, ...]) -> np.ndarray:
        """np.broadcast_to after inserting unit dimensions."""
        expanded = [1] * len(shape)
        for size, target in zip(x.shape, dims, strict=True):
            expanded[target] = size
        return np.broadcast_to(x.reshape(expanded), shape)

    def generate(self, choose: Chooser) -> Generated:
        """A new leading or trailing dimension."""
        x = choose.value(ALL)
        kept, size = type_of(x).shape, choose.integer(1, 4)
        if choose.integer(0, 1):
            return [x], {"shape": (size, *kept), "dims": tuple(range(1, len(kept) + 1))}
        return [x], {"shape": (*kept, size), "dims": tuple(range(len(kept)))}


class Slice(Op):
    """The range [start, stop) of one axis."""

    name = "slice"
    operands = (Operand("x", STORED),)
    attributes = (Attribute("axis", Kind.INT), Attribute("start", Kind.INT), Attribute("stop", Kind.INT))

    def infer(self, x: TensorType, *, axis: int, start: int, stop: int) -> TensorType:
        """The shape with that axis shortened; the axis must be static."""
        size = _static_axis(x, axis)
        if not 0 <= start < stop <= size:
            raise IRError("range outside the axis", expected=f"0 <= start < stop <= {size}", found=f"{start}:{stop}")
        return x.with_shape((*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))

    def evaluate(self, x: np.ndarray, *, axis: int, start: int, stop: int) -> np.ndarray:
        """Basic slicing."""
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def generate(self, choose: Chooser) -> Generated:
        """Any non-empty range of a static axis."""
        x = _with_static_axis(choose)
        axis = choose.choice([i for i, d in enumerate(type_of(x).shape) if isinstance(d, int)])
        size = _static_axis(type_of(x), axis)
        start = choose.integer(0, size - 1)
        return [x], {"axis": axis, "start": start, "stop": choose.integer(start + 1, size)}


class Concat(Op):
    """x, then y, along an axis; the instance called with several values nests."""

    name = "concat"
    operands = (Operand("x", STORED), Operand("y", STORED))
    attributes = (Attribute("axis", Kind.INT),)

    def __call__(self, *values: mlir.Value, **attrs: AttrValue) -> Any:
        """All values in order; one value is returned as it is."""
        return reduce(lambda x, y: super(Concat, self).__call__(x, y, **attrs), values)

    def infer(self, x: TensorType, y: TensorType, *, axis: int) -> TensorType:
        """The shape with the axis summed."""
        fits = x.dtype == y.dtype and x.rank == y.rank and 0 <= axis < x.rank
        if not fits or not same_shape(_without(x.shape, axis), _without(y.shape, axis)):
            raise IRError(f"operands differ beyond axis {axis}", expected=str(x), found=str(y))
        return x.with_shape((*x.shape[:axis], x.shape[axis] + y.shape[axis], *x.shape[axis + 1 :]))

    def evaluate(self, x: np.ndarray, y: np.ndarray, *, axis: int) -> np.ndarray:
        """np.concatenate."""
        return np.concatenate((x, y), axis)

    def generate(self, choose: Chooser) -> Generated:
        """A value beside another of its type."""
        x = choose.value(ALL, min_rank=1)
        return [x, choose.like(type_of(x))], {"axis": choose.integer(0, type_of(x).rank - 1)}


class Pad(Op):
    """A constant before and after the elements of one axis."""

    name = "pad"
    operands = (Operand("x", FLOATS | INTS),)
    attributes = (
        Attribute("axis", Kind.INT),
        Attribute("low", Kind.INT),
        Attribute("high", Kind.INT),
        Attribute("value", Kind.FLOAT),
    )

    def infer(self, x: TensorType, *, axis: int, low: int, high: int, value: float) -> TensorType:
        """The shape with that axis lengthened."""
        if not 0 <= axis < x.rank or low < 0 or high < 0:
            raise IRError("padding must be of an existing axis and not negative", found=f"axis {axis}, {low}, {high}")
        return x.with_shape((*x.shape[:axis], x.shape[axis] + low + high, *x.shape[axis + 1 :]))

    def evaluate(self, x: np.ndarray, *, axis: int, low: int, high: int, value: float) -> np.ndarray:
        """np.pad with a constant."""
        widths = [(low, high) if i == axis else (0, 0) for i in range(x.ndim)]
        return np.pad(x, widths, constant_values=np.asarray(value).astype(x.dtype))

    def generate(self, choose: Chooser) -> Generated:
        """Up to three elements on each side."""
        x = choose.value(FLOATS | INTS, min_rank=1)
        axis = choose.integer(0, type_of(x).rank - 1)
        return [x], {"axis": axis, "low": choose.integer(0, 3), "high": choose.integer(0, 3), "value": 1.0}


class Gather(Op):
    """Rows of x by index along axis 0; an index outside is clamped to the nearest row."""

    name = "gather"
    operands = (Operand("x", STORED), Operand("indices", I32))

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        """The shape of the indices followed by that of a row."""
        if x.rank == 0:
            raise IRError("a scalar has no rows", found=str(x))
        return x.with_shape((*indices.shape, *x.shape[1:]))

    def evaluate(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Integer-array indexing."""
        return x[np.clip(indices, 0, x.shape[0] - 1)]

    def generate(self, choose: Chooser) -> Generated:
        """Indices in and just outside of the range."""
        x = choose.value(ALL, min_rank=1)
        indices = choose.input(tensor((choose.symbol(),), DType.I32), -1, 6)
        return [x, indices], {}


class Scatter(Op):
    """x with rows replaced: row indices[i] becomes updates[i]; negative indices write nothing; indices are distinct."""

    name = "scatter"
    operands = (Operand("x"), Operand("indices", I32), Operand("updates"))

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        """The type of x."""
        if x.rank == 0 or indices.rank != 1:
            raise IRError("indices must be a vector of rows of x", found=f"{x}, {indices}")
        wanted = x.with_shape((indices.shape[0], *x.shape[1:]))
        if not updates.matches(wanted):
            raise IRError("updates do not fit", expected=str(wanted), found=str(updates))
        return x

    def evaluate(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        """Integer-array assignment to a copy."""
        result = x.copy()
        kept = indices >= 0
        result[indices[kept]] = updates[kept]
        return result

    def generate(self, choose: Chooser) -> Generated:
        """One row, so that indices are distinct."""
        x = choose.value(ALL, min_rank=1)
        row = type_of(x).with_shape((1, *type_of(x).shape[1:]))
        return [x, choose.input(tensor((1,), DType.I32), -1, 0), choose.like(row)], {}


class Iota(Op):
    """Position along one axis: element [.., i, ..] is i."""

    name = "iota"
    attributes = (Attribute("shape", Kind.SHAPE), Attribute("axis", Kind.INT))

    def infer(self, *, shape: Shape, axis: int) -> TensorType:
        """i32 of the given shape."""
        if not 0 <= axis < len(shape):
            raise IRError("no such axis", expected=f"0..{len(shape) - 1}", found=str(axis))
        return tensor(shape, DType.I32)

    def evaluate(self, *, shape: tuple[int, ...], axis: int) -> np.ndarray:
        """np.arange, broadcast."""
        ones = [1] * len(shape)
        ones[axis] = shape[axis]
        return np.broadcast_to(np.arange(shape[axis], dtype=np.int32).reshape(ones), shape)

    def generate(self, choose: Chooser) -> Generated:
        """A small matrix."""
        return [], {"shape": (choose.symbol(), choose.integer(1, 5)), "axis": choose.integer(0, 1)}


class Full(Op):
    """One value everywhere."""

    name = "full"
    attributes = (
        Attribute("shape", Kind.SHAPE),
        Attribute("value", Kind.FLOAT),
        Attribute("dtype", Kind.STR),
    )

    def infer(self, *, shape: Shape, value: float, dtype: str) -> TensorType:
        """The given shape and dtype; an integer dtype needs a whole number that it holds."""
        result = tensor(shape, dtype)
        if not result.dtype.is_float and np.asarray(value).astype(result.dtype.numpy) != value:
            raise IRError(f"{dtype} does not hold the value", found=str(value))
        return result

    def evaluate(self, *, shape: tuple[int, ...], value: float, dtype: str) -> np.ndarray:
        """np.full."""
        return np.full(shape, value).astype(DType(dtype).numpy)

    def generate(self, choose: Chooser) -> Generated:
        """A small number in a vector."""
        value = float(choose.integer(-4, 4))
        return [], {"shape": (choose.symbol(),), "value": value, "dtype": choose.choice(["f32", "i32"])}


class Constant(Op):
    """A small tensor known at compile time."""

    name = "constant"
    attributes = (Attribute("value", Kind.ARRAY),)

    def infer(self, *, value: np.ndarray) -> TensorType:
        """The shape and dtype of the array; MLIR's bindings read no bf16 elements."""
        dtype = DType.of(value)
        if dtype is DType.BF16:
            raise IRError("a constant cannot be bf16", fix="cast an f32 constant")
        return tensor(value.shape, dtype)

    def evaluate(self, *, value: np.ndarray) -> np.ndarray:
        """The array itself."""
        return value

    def generate(self, choose: Chooser) -> Generated:
        """Two to five floats."""
        size = choose.integer(2, 5)
        return [], {"value": np.linspace(-1, 1, size, dtype=np.float32)}


def _static_axis(x: TensorType, axis: int) -> int:
    size = x.shape[axis] if 0 <= axis < x.rank else None
    if not isinstance(size, int):
        raise IRError(f"axis {axis} is not a static axis", found=str(x))
    return size


def _with_static_axis(choose: Chooser) -> mlir.Value:
    x = choose.value(ALL, min_rank=1)
    if any(isinstance(d, int) for d in type_of(x).shape):
        return x
    return choose.like(tensor((choose.symbol(), 4), type_of(x).dtype))


def _without(dims: Shape, axis: int) -> Shape:
    return dims[:axis] + dims[axis + 1 :]


reshape, transpose, broadcast = Reshape(), Transpose(), Broadcast()
slice_axis, concat, pad = Slice(), Concat(), Pad()
gather, scatter = Gather(), Scatter()
iota, full, constant = Iota(), Full(), Constant()
