"""The op that lays out a weight, and reading a laid out weight in core ops; see `ir/layouts.py` for the layouts."""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir import layouts
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike, Shape
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.ops.elementwise import add, as_dtype, bit_and, bit_or, cast, shl, shr, sub
from warploom.ir.ops.shape import concat, full, pad, reshape, slice_axis, transpose
from warploom.ir.types import FLOATS, QUANTIZED, DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Pack(Op):
    """A row-layout weight in another layout; numbers of four bits become bytes where the layout holds two in one."""

    name = "pack"
    operands = (Operand("weight", FLOATS | QUANTIZED),)
    attributes = (Attribute("layout", Kind.STR),)

    def infer(self, weight: TensorType, *, layout: str) -> TensorType:
        """See `packed_shape`."""
        n, k = static_matrix(weight)
        if not layouts.layout_of(layout).nibbles:
            return weight.with_shape(layouts.packed_shape(n, k, layout))
        if weight.dtype is not DType.I4:
            raise IRError(f"{layout} holds numbers of four bits", expected="i4", found=str(weight))
        return tensor(layouts.packed_shape(n, k, layout), DType.I8)

    def evaluate(self, weight: np.ndarray, *, layout: str) -> np.ndarray:
        """`pack_array`."""
        return layouts.pack_array(weight, layout)

    def decompose(self, weight: mlir.Value, *, layout: str) -> mlir.Value:
        """Reshapes and transposes, on f32 for want of core ops on narrower numbers."""
        dtype = self.infer(type_of(weight), layout=layout).dtype
        wide = weight if type_of(weight).dtype in FLOATS | {DType.I8} else cast(weight, dtype="f32")
        return as_dtype(layouts.pack(_Core(), wide, layout), dtype)

    def generate(self, choose: Chooser) -> Generated:
        """A weight with and without a ragged last panel."""
        n, layout = choose.choice([(5, "panel"), (64, "panel"), (64, "panel_pair"), (5, "quad"), (64, "quad_pair")])
        dtype = choose.choice([DType.F32, DType.I8])
        return [choose.like(tensor((n, choose.choice([4, 16])), dtype))], {"layout": layout}


class _Core:
    """The kit of `layouts` on values; numbers of four bits are f32."""

    def shape(self, x: mlir.Value) -> tuple[int, ...]:
        return tuple(map(static, type_of(x).shape))

    def reshape(self, x: mlir.Value, shape: tuple[int, ...]) -> mlir.Value:
        return reshape(x, shape=shape)

    def transpose(self, x: mlir.Value, axes: tuple[int, ...]) -> mlir.Value:
        return transpose(x, permutation=axes)

    def pad_rows(self, x: mlir.Value, count: int) -> mlir.Value:
        return pad(x, axis=0, low=0, high=count, value=0.0)

    def first_rows(self, x: mlir.Value, count: int) -> mlir.Value:
        whole = type_of(x).shape[0] == count
        return x if whole else slice_axis(x, axis=0, start=0, stop=count)

    def join(self, x: mlir.Value) -> mlir.Value:
        digits = cast(add(x, _like(x, 8.0)), dtype="i32")
        low, high = (slice_axis(digits, axis=2, start=i, stop=i + 1) for i in (0, 1))
        both = bit_or(low, shl(high, _like(high, 4)))
        dims = self.shape(both)
        return cast(reshape(both, shape=(*dims[:2], *dims[3:])), dtype="i8")

    def split(self, x: mlir.Value) -> mlir.Value:
        words, dims = cast(x, dtype="i32"), self.shape(x)
        halves = [bit_and(word, _like(word, 15)) for word in (words, shr(words, _like(words, 4)))]
        both: mlir.Value = concat(*(reshape(h, shape=(*dims[:2], 1, *dims[2:])) for h in halves), axis=2)
        digits = cast(both, dtype="f32")
        return sub(digits, _like(digits, 8.0))


def unpacked(packed: mlir.Value, n: int, layout: str) -> mlir.Value:
    """A packed weight as [n, k] in core ops: i8 and f8 as f32, floats as they are."""
    if layouts.layout_of(layout).nibbles:
        return layouts.unpack(_Core(), packed, n, layout)
    wide = packed if type_of(packed).dtype in FLOATS else cast(packed, dtype="f32")
    return layouts.unpack(_Core(), wide, n, layout)


def packed_weight(k: DimLike, weight: TensorType, n: int, layout: str) -> TensorType:
    """The type that a weight of n rows and k columns must have.

    Raises:
        IRError: k is symbolic, or `packed_shape` refuses.
    """
    if not isinstance(k, int):
        raise IRError("the last axis of x must be static", found=str(k))
    return weight.with_shape(layouts.packed_shape(n, k, layout))


def static_matrix(weight: TensorType) -> tuple[int, int]:
    """Rows and columns of a static matrix; IRError if it is none."""
    if weight.rank != 2 or not weight.is_static:
        raise IRError("a weight is a static matrix", found=str(weight))
    n, k = weight.shape
    return static(n), static(k)


def static(dim: DimLike) -> int:
    """A dimension that was checked to be static."""
    assert isinstance(dim, int)
    return dim


def _like(x: mlir.Value, value: float) -> Any:
    type_: TensorType = type_of(x)
    shape: Shape = type_.shape
    return full(shape=shape, value=float(value), dtype=type_.dtype.value)


pack = Pack()
