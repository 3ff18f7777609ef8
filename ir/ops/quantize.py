"""Numbers of few bits for floats: quantization with scales (and offsets) of groups, or with one scale known before.

What the numbers stand for is in `dequantize.py`.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.ops.dequantize import SCALES, over_groups
from warploom.ir.ops.elementwise import (
    as_dtype,
    cast,
    compare,
    div,
    maximum,
    minimum,
    mul,
    neg,
    round_even,
    select,
    sub,
)
from warploom.ir.ops.packing import static
from warploom.ir.ops.reduce import reduce_max, reduce_min
from warploom.ir.ops.shape import broadcast, full, reshape
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

LARGEST = {DType.I8: 127.0, DType.I4: 7.0, DType.F8: 448.0}
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]
FORMAT = (Attribute("dtype", Kind.STR), Attribute("group", Kind.INT), Attribute("scale_dtype", Kind.STR))


class Quantize(Op):
    """Symmetric numbers with a scale for every `group` columns of the last axis (0: one for all of them).

    i8 and f8: scale = max|x| / 127 or 448. i4: scale = -m / 8 where m is the extreme of x (the maximum if two tie), so
    that all 16 numbers are used and what four bits can hold is kept (smaller scales that lower the squared error of a
    group made SmolLM2 worse). The scale is rounded to its dtype first; a group of zeros has scale 1.
    """

    name = "quantize"
    operands = (Operand("x", FLOATS, widened=True),)
    attributes = FORMAT
    results = ("q", "scale")

    def infer(self, x: TensorType, *, dtype: str, group: int, scale_dtype: str) -> tuple[TensorType, ...]:
        """q of the shape of x and scales [.., groups]."""
        groups = check_format(x, dtype, group, scale_dtype)
        return x.with_dtype(DType(dtype)), tensor((*x.shape[:-1], groups), scale_dtype)

    def evaluate(self, x: np.ndarray, *, dtype: str, group: int, scale_dtype: str) -> tuple[np.ndarray, ...]:
        """Round to nearest, ties to even."""
        grouped = x.reshape(*x.shape[:-1], -1, group or x.shape[-1])
        high, low = grouped.max(-1), grouped.min(-1)
        number = x.dtype.type
        if dtype == DType.I4:
            scale = np.where(high >= -low, high, low) / number(-8)
        else:
            scale = np.maximum(high, -low) / number(LARGEST[DType(dtype)])
        scale = _narrowed(scale, scale_dtype)
        scale = np.where(scale == 0, number(1), scale)
        return _numbers(grouped / scale[..., None], dtype).reshape(x.shape), scale

    def decompose(self, x: mlir.Value, *, dtype: str, group: int, scale_dtype: str) -> tuple[mlir.Value, ...]:
        """Extremes of every group, a quotient, a rounding."""
        grouped, axis = _grouped(x, group)
        high, low = reduce_max(grouped, axis=axis), neg(reduce_min(grouped, axis=axis))
        if dtype == DType.I4:
            extreme = select(compare(high, low, direction="ge"), high, neg(low))
            scale = div(extreme, _like(extreme, -8.0))
        else:
            scale = div(maximum(high, low), _like(high, LARGEST[DType(dtype)]))
        scale = _without_zero(_rounded(scale, scale_dtype))
        return _core_numbers(div(grouped, over_groups(scale, grouped)), dtype, x), as_dtype(scale, DType(scale_dtype))

    def generate(self, choose: Chooser) -> Generated:
        """Activations or a weight; i4 is for parameters, and comes in a motif."""
        group = choose.choice([0, 8])
        x = choose.like(tensor((choose.symbol(), 16), choose.choice([DType.F32, DType.BF16])))
        scale = choose.choice(["f32", "f16"])
        return [x], {"dtype": choose.choice(["i8", "f8e4m3"]), "group": group, "scale_dtype": scale}


class QuantizeAffine(Op):
    """Numbers of i4 or i8 that reach from the minimum to the maximum of each group, with scale and offset.

    scale = (max - min) / steps and offset = min - lowest * scale, where lowest is -8 or -128 and steps 15 or 255; both
    are rounded to their dtype first. A group of equal numbers has scale 1.
    """

    name = "quantize_affine"
    operands = (Operand("x", FLOATS, widened=True),)
    attributes = FORMAT
    results = ("q", "scale", "offset")

    def infer(self, x: TensorType, *, dtype: str, group: int, scale_dtype: str) -> tuple[TensorType, ...]:
        """q of the shape of x; scales and offsets [.., groups]."""
        groups = check_format(x, dtype, group, scale_dtype)
        if dtype == DType.F8:
            raise IRError("f8 has no offsets", fix="use quantize")
        side = tensor((*x.shape[:-1], groups), scale_dtype)
        return x.with_dtype(DType(dtype)), side, side

    def evaluate(self, x: np.ndarray, *, dtype: str, group: int, scale_dtype: str) -> tuple[np.ndarray, ...]:
        """Round to nearest, ties to even."""
        grouped = x.reshape(*x.shape[:-1], -1, group or x.shape[-1])
        high, low = grouped.max(-1), grouped.min(-1)
        steps, lowest = _range(dtype)
        scale = _narrowed((high - low) / x.dtype.type(steps), scale_dtype)
        scale = np.where(scale == 0, x.dtype.type(1), scale)
        offset = _narrowed(low - x.dtype.type(lowest) * np.where(high == low, 0, scale), scale_dtype)
        q = _numbers((grouped - offset[..., None]) / scale[..., None], dtype).reshape(x.shape)
        return q, scale, offset

    def decompose(self, x: mlir.Value, *, dtype: str, group: int, scale_dtype: str) -> tuple[mlir.Value, ...]:
        """Extremes of every group, a difference, a quotient, a rounding."""
        grouped, axis = _grouped(x, group)
        high, low = reduce_max(grouped, axis=axis), reduce_min(grouped, axis=axis)
        steps, lowest = _range(dtype)
        scale = _without_zero(_rounded(div(sub(high, low), _like(high, steps)), scale_dtype))
        flat = compare(high, low, direction="eq")
        reach = select(flat, _like(high, 0.0), mul(scale, _like(scale, lowest)))
        offset = _rounded(sub(low, reach), scale_dtype)
        quotient = div(sub(grouped, over_groups(offset, grouped)), over_groups(scale, grouped))
        side = DType(scale_dtype)
        return _core_numbers(quotient, dtype, x), as_dtype(scale, side), as_dtype(offset, side)

    def generate(self, choose: Chooser) -> Generated:
        """Activations or a weight."""
        x = choose.like(tensor((choose.symbol(), 16)))
        return [x], {"dtype": "i8", "group": choose.choice([0, 8]), "scale_dtype": choose.choice(["f32", "f16"])}


class QuantizeStatic(Op):
    """Numbers of i8 or f8 on one scale known beforehand: x / scale, rounded and clamped."""

    name = "quantize_static"
    operands = (Operand("x", FLOATS, widened=True), Operand("scale", frozenset({DType.F32})))
    attributes = (Attribute("dtype", Kind.STR),)

    def infer(self, x: TensorType, scale: TensorType, *, dtype: str) -> TensorType:
        """The shape of x; scale is [1]."""
        if not scale.matches(tensor((1,))) or dtype not in LARGEST:
            raise IRError("one scale and a dtype are needed", expected=", ".join(LARGEST), found=f"{scale}, {dtype}")
        return x.with_dtype(DType(dtype))

    def evaluate(self, x: np.ndarray, scale: np.ndarray, *, dtype: str) -> np.ndarray:
        """Round to nearest, ties to even."""
        return _numbers(x / scale, dtype)

    def decompose(self, x: mlir.Value, scale: mlir.Value, *, dtype: str) -> mlir.Value:
        """A quotient, a rounding."""
        dims = type_of(x).shape
        wide = broadcast(reshape(scale, shape=()), shape=dims, dims=())
        return _core_numbers(div(x, wide), dtype, x)

    def generate(self, choose: Chooser) -> Generated:
        """A value, and a scale that clamps some of it."""
        x = choose.like(tensor((choose.symbol(), 16), choose.choice([DType.F32, DType.BF16])))
        return [x, choose.input(tensor((1,)), 0.004, 0.05)], {"dtype": choose.choice(["i8", "f8e4m3"])}


def check_format(x: TensorType, dtype: str, group: int, scale_dtype: str) -> DimLike:
    """The number of groups of the last axis.

    Raises:
        IRError: unknown dtypes, or an axis that is symbolic or does not divide into groups.
    """
    if dtype not in LARGEST or scale_dtype not in SCALES:
        wanted = f"{', '.join(LARGEST)} with scales of {', '.join(sorted(SCALES))}"
        raise IRError("unknown format of numbers", expected=wanted, found=f"{dtype} with {scale_dtype}")
    k = x.shape[-1] if x.rank else None
    if not isinstance(k, int) or k == 0 or group < 0 or (group and k % group):
        raise IRError("the last axis does not divide into groups", expected=f"a multiple of {group}", found=str(x))
    return k // group if group else 1


def _numbers(quotient: np.ndarray, dtype: str) -> np.ndarray:
    """Quotients as the nearest numbers of a dtype."""
    kind = DType(dtype)
    if kind is DType.F8:
        return np.clip(quotient, -LARGEST[kind], LARGEST[kind]).astype(kind.numpy)
    return np.clip(np.rint(quotient), _lowest(kind), LARGEST[kind]).astype(kind.numpy)


def _core_numbers(quotient: mlir.Value, dtype: str, like: mlir.Value) -> mlir.Value:
    kind = DType(dtype)
    bounds = (-LARGEST[kind] if kind is DType.F8 else _lowest(kind), LARGEST[kind])
    whole = quotient if kind is DType.F8 else round_even(quotient)
    clamped = minimum(maximum(whole, _like(whole, bounds[0])), _like(whole, bounds[1]))
    result: mlir.Value = cast(reshape(clamped, shape=type_of(like).shape), dtype=dtype)
    return result


def _range(dtype: str) -> tuple[float, float]:
    """Steps between the numbers of an integer dtype, and the lowest."""
    kind = DType(dtype)
    return LARGEST[kind] - _lowest(kind), _lowest(kind)


def _lowest(kind: DType) -> float:
    return -LARGEST[kind] - 1


def _narrowed(scale: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to a dtype, and still held in the dtype that is computed in."""
    return scale if dtype == DType.F32 else scale.astype(DType(dtype).numpy).astype(scale.dtype)


def _rounded(scale: mlir.Value, dtype: str) -> mlir.Value:
    return as_dtype(as_dtype(scale, DType(dtype)), DType.F32)


def _grouped(x: mlir.Value, group: int) -> tuple[mlir.Value, int]:
    """[.., K] as [.., groups, group], and its last axis."""
    dims = type_of(x).shape
    k = static(dims[-1])
    size = group or k
    return reshape(x, shape=(*dims[:-1], k // size, size)), len(dims)


def _without_zero(scale: mlir.Value) -> mlir.Value:
    zero = compare(scale, _like(scale, 0.0), direction="eq")
    result: mlir.Value = select(zero, _like(scale, 1.0), scale)
    return result


def _like(x: mlir.Value, value: float) -> mlir.Value:
    result: mlir.Value = full(shape=type_of(x).shape, value=value, dtype="f32")
    return result


quantize, quantize_affine, quantize_static = Quantize(), QuantizeAffine(), QuantizeStatic()
