"""Numbers of few bits with scales, products of them, and row lookup in tables of them.

The last axis of a quantized value is cut into equal groups, as many as its scales have columns. A number stands for
q * scale of its group, + offset of its group where there are offsets (asymmetric schemes). Numbers are i8, f8 (E4M3)
or i4; of i4 weights in a packed layout two are one byte.

A weight of n rows has scales [n, groups], in `side_layout` of its layout; activations [.., K] have scales [.., groups].
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import DimLike, Shape
from warploom.ir.layouts import columns_of, layout_of, packed_shape, rows_of, side_layout, unpack_array
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import (
    add,
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
from warploom.ir.ops.linear import LAYOUT, check_weight, contract, embedding_type
from warploom.ir.ops.packing import packed_weight, static, unpacked
from warploom.ir.ops.reduce import reduce_max, reduce_min
from warploom.ir.ops.shape import broadcast, full, gather, reshape
from warploom.ir.types import FLOATS, QUANTIZED, DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
BYTES = frozenset({DType.I8, DType.F8})
SCALES = frozenset({DType.F32, DType.F16, DType.BF16})
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
        return _core_numbers(div(grouped, _over(scale, grouped)), dtype, x), as_dtype(scale, DType(scale_dtype))

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
        quotient = div(sub(grouped, _over(offset, grouped)), _over(scale, grouped))
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


class Dequantize(Op):
    """q * scale (+ offset) as f32."""

    name = "dequantize"
    operands = (Operand("q", QUANTIZED), Operand("scale", SCALES), Operand("offset", SCALES, optional=True))

    def infer(self, q: TensorType, scale: TensorType, offset: TensorType | None = None) -> TensorType:
        """f32 of the shape of q."""
        check_groups(q.shape, scale, offset)
        return q.with_dtype(DType.F32)

    def evaluate(self, q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
        """In the dtype of the scale."""
        return _values(q, scale, offset)

    def decompose(self, q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None = None) -> mlir.Value:
        """Cast, a product, a sum."""
        return _core_values(cast(q, dtype="f32"), scale, offset)

    def generate(self, choose: Chooser) -> Generated:
        """Fresh numbers."""
        n, groups = choose.integer(1, 40), choose.choice([1, 2])
        dtype = choose.choice(sorted(BYTES))
        q = choose.input(tensor((n, 8), dtype), -127, 127)
        return [q, *_generate_sides(choose, (n, groups))], {}


class QuantizedLinear(Op):
    """`linear` with a quantized weight, whose numbers are read as the dtype of x."""

    name = "quantized_linear"
    operands = (
        activation("x"),
        Operand("q", QUANTIZED),
        Operand("scale", SCALES),
        Operand("offset", SCALES, optional=True),
    )
    attributes = LAYOUT

    def infer(
        self, x: TensorType, q: TensorType, scale: TensorType, offset: TensorType | None = None, *, n: int, layout: str
    ) -> TensorType:
        """[.., n]."""
        check_weight(x, q, n, layout)
        check_sides(q, static(x.shape[-1]), scale, offset, n, layout)
        return x.with_shape((*x.shape[:-1], n))

    def evaluate(
        self, x: np.ndarray, q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None, *, n: int, layout: str
    ) -> np.ndarray:
        """One matrix product with the values."""
        return x @ _weight(q, scale, offset, n, layout).astype(x.dtype).T

    def decompose(
        self, x: mlir.Value, q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None = None, *, n: int, layout: str
    ) -> mlir.Value:
        """Unpack, dequantize, contract."""
        return contract(x, _core_weight(q, scale, offset, n, layout))

    def generate(self, choose: Chooser) -> Generated:
        """Rows of a value times a fresh weight in any layout."""
        weight, attrs, k = _generate_weight(choose)
        return [choose.like(tensor((choose.symbol(), k), choose.choice([DType.F32, DType.BF16]))), *weight], attrs


class ScaledLinear(Op):
    """`linear` of quantized activations and a quantized weight: both are read as what they stand for, in f32.

    x_scale is [.., groups of x], or [1]: one for everything. `dtype` is of the result.
    """

    name = "scaled_linear"
    operands = (
        Operand("x", BYTES),
        Operand("x_scale", SCALES),
        Operand("q", QUANTIZED),
        Operand("scale", SCALES),
        Operand("offset", SCALES, optional=True),
    )
    attributes = (*LAYOUT, Attribute("dtype", Kind.STR))

    def infer(
        self,
        x: TensorType,
        x_scale: TensorType,
        q: TensorType,
        scale: TensorType,
        offset: TensorType | None = None,
        *,
        n: int,
        layout: str,
        dtype: str,
    ) -> TensorType:
        """[.., n] of `dtype`."""
        check_weight(x, q, n, layout)
        check_sides(q, static(x.shape[-1]), scale, offset, n, layout)
        if not x_scale.matches(tensor((1,), x_scale.dtype)):
            check_groups(x.shape, x_scale, None)
        return tensor((*x.shape[:-1], n), dtype)

    def evaluate(
        self,
        x: np.ndarray,
        x_scale: np.ndarray,
        q: np.ndarray,
        scale: np.ndarray,
        offset: np.ndarray | None = None,
        *,
        n: int,
        layout: str,
        dtype: str,
    ) -> np.ndarray:
        """One matrix product of the values."""
        wide = x_scale if x_scale.ndim == x.ndim else x_scale.reshape((1,) * x.ndim)
        return _values(x, wide, None) @ _weight(q, scale, offset, n, layout).T

    def decompose(
        self,
        x: mlir.Value,
        x_scale: mlir.Value,
        q: mlir.Value,
        scale: mlir.Value,
        offset: mlir.Value | None = None,
        *,
        n: int,
        layout: str,
        dtype: str,
    ) -> mlir.Value:
        """Dequantize both, contract."""
        if type_of(x_scale).rank != type_of(x).rank:
            dims = (*type_of(x).shape[:-1], 1)
            x_scale = broadcast(reshape(x_scale, shape=()), shape=dims, dims=())
        values = _core_values(cast(x, dtype="f32"), x_scale, None)
        return contract(values, _core_weight(q, scale, offset, n, layout))

    def generate(self, choose: Chooser) -> Generated:
        """Fresh numbers of few bits on both sides."""
        weight, attrs, k = _generate_weight(choose)
        rows = choose.symbol()
        x = choose.input(tensor((rows, k), choose.choice(sorted(BYTES))), -127, 127)
        scales = tensor(choose.choice([(rows, 1), (rows, 2), (1,)]))
        dtype = choose.choice(["f32", "bf16"])
        return [x, choose.input(scales, 0.001, 0.01), *weight], attrs | {"dtype": dtype}


class QuantizedEmbed(Op):
    """`embed` from a quantized table."""

    name = "quantized_embed"
    operands = (
        Operand("ids", I32),
        Operand("q", QUANTIZED),
        Operand("scale", SCALES),
        Operand("offset", SCALES, optional=True),
    )
    attributes = LAYOUT

    def infer(
        self,
        ids: TensorType,
        q: TensorType,
        scale: TensorType,
        offset: TensorType | None = None,
        *,
        n: int,
        layout: str,
    ) -> TensorType:
        """f32 [.., K]."""
        result = embedding_type(ids, q, n, layout)
        check_sides(q, static(result.shape[-1]), scale, offset, n, layout)
        return result

    def evaluate(
        self,
        ids: np.ndarray,
        q: np.ndarray,
        scale: np.ndarray,
        offset: np.ndarray | None = None,
        *,
        n: int,
        layout: str,
    ) -> np.ndarray:
        """Look up the numbers, then what they stand for."""
        rows, side = np.clip(ids, 0, n - 1), side_layout(layout)
        sides = [None if s is None else rows_of(s, rows, side) for s in (scale, offset)]
        assert sides[0] is not None
        return _values(rows_of(q, rows, layout), sides[0], sides[1])

    def decompose(
        self,
        ids: mlir.Value,
        q: mlir.Value,
        scale: mlir.Value,
        offset: mlir.Value | None = None,
        *,
        n: int,
        layout: str,
    ) -> mlir.Value:
        """Look up the numbers, then what they stand for."""
        side = side_layout(layout)
        sides = [None if s is None else gather(unpacked(s, n, side), ids) for s in (scale, offset)]
        return _core_values(gather(unpacked(q, n, layout), ids), sides[0], sides[1])

    def generate(self, choose: Chooser) -> Generated:
        """Ids in and just outside of the range over a fresh table."""
        weight, attrs, _ = _generate_weight(choose)
        n = attrs["n"]
        assert isinstance(n, int)
        return [choose.input(tensor((choose.symbol(),), DType.I32), -1, n), *weight], attrs


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


def check_groups(shape: Shape, scale: TensorType, offset: TensorType | None) -> None:
    """Scales or offsets that do not divide the last axis of `shape` evenly are an IRError."""
    k, groups = (shape[-1] if shape else 0), (scale.shape[-1] if scale.rank else 0)
    even = isinstance(k, int) and isinstance(groups, int) and groups > 0 and k % groups == 0
    if not even or not scale.matches(tensor((*shape[:-1], groups), scale.dtype)):
        raise IRError("scales do not fit", expected=f"[.., groups] for {shape}", found=str(scale))
    if offset is not None and not offset.matches(scale):
        raise IRError("offsets differ from scales", expected=str(scale), found=str(offset))


def check_sides(q: TensorType, k: int, scale: TensorType, offset: TensorType | None, n: int, layout: str) -> None:
    """Scales and offsets that do not fit a packed weight of n rows and k columns are an IRError."""
    if layout_of(layout).nibbles and q.dtype is not DType.I8:
        raise IRError(f"{layout} is packed bytes", expected="i8", found=str(q))
    side = side_layout(layout)
    groups = scale.shape[1] if scale.rank >= 2 else 0
    fits = isinstance(groups, int) and groups > 0 and k % groups == 0
    if not fits or not scale.matches(packed_weight(groups, scale, n, side)):
        raise IRError(f"scales do not fit {n} rows of {k} columns in layout {side}", found=str(scale))
    if offset is not None and not offset.matches(scale):
        raise IRError("offsets differ from scales", expected=str(scale), found=str(offset))


def group_size(q: TensorType, scale: TensorType, layout: str) -> int:
    """Columns of a packed weight that share a scale."""
    return columns_of([static(d) for d in q.shape], layout) // static(scale.shape[1])


def _values(q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """q [.., K] with scales [.., groups] as what it stands for."""
    number = scale.dtype if scale.dtype == np.float64 else np.dtype(np.float32)
    grouped = q.reshape(*q.shape[:-1], scale.shape[-1], -1).astype(number) * scale[..., None].astype(number)
    if offset is not None:
        grouped = grouped + offset[..., None].astype(number)
    return grouped.reshape(q.shape)


def _weight(q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None, n: int, layout: str) -> np.ndarray:
    side = side_layout(layout)
    return _values(
        unpack_array(q, n, layout),
        unpack_array(scale, n, side),
        None if offset is None else unpack_array(offset, n, side),
    )


def _core_values(q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None) -> mlir.Value:
    """`_values` in core ops, of q widened already."""
    dims = type_of(q).shape
    groups = type_of(scale).shape[-1]
    grouped = reshape(q, shape=(*dims[:-1], groups, static(dims[-1]) // static(groups)))
    result = mul(grouped, _over(cast(scale, dtype="f32"), grouped))
    if offset is not None:
        result = add(result, _over(cast(offset, dtype="f32"), grouped))
    return reshape(result, shape=dims)


def _core_weight(q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None, n: int, layout: str) -> mlir.Value:
    side = side_layout(layout)
    sides = [None if s is None else unpacked(s, n, side) for s in (scale, offset)]
    numbers = unpacked(q, n, layout)
    return _core_values(numbers, sides[0], sides[1])


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


def _over(per_group: mlir.Value, grouped: mlir.Value) -> mlir.Value:
    """One number per group [.., groups] over [.., groups, group]."""
    dims = type_of(grouped).shape
    result: mlir.Value = broadcast(per_group, shape=dims, dims=tuple(range(len(dims) - 1)))
    return result


def _without_zero(scale: mlir.Value) -> mlir.Value:
    zero = compare(scale, _like(scale, 0.0), direction="eq")
    result: mlir.Value = select(zero, _like(scale, 1.0), scale)
    return result


def _like(x: mlir.Value, value: float) -> mlir.Value:
    result: mlir.Value = full(shape=type_of(x).shape, value=value, dtype="f32")
    return result


def _generate_sides(choose: Chooser, shape: Shape) -> list[mlir.Value]:
    dtype = choose.choice([DType.F32, DType.F16])
    scale = choose.input(tensor(shape, dtype), 0.001, 0.01)
    return [scale, choose.input(tensor(shape, dtype), -1, 1)] if choose.integer(0, 2) == 2 else [scale]


def _generate_weight(choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue], int]:
    """Operands q, scale and perhaps offset of a weight in any layout, its attributes and its columns."""
    n, k, layout = choose.choice([
        (5, 6, "row"), (5, 32, "row4"), (40, 6, "panel"), (64, 6, "panel_pair"),
        (40, 8, "quad"), (64, 8, "quad_pair"), (40, 16, "quad4"), (64, 16, "quad4_pair"),
    ])  # fmt: skip
    dtype = DType.I8 if layout_of(layout).nibbles else choose.choice(sorted(BYTES, reverse=True))
    q = choose.input(tensor(packed_shape(n, k, layout), dtype), -127, 127)
    sides = _generate_sides(choose, packed_shape(n, choose.choice([1, 2]), side_layout(layout)))
    return [q, *sides], {"n": n, "layout": layout}, k


quantize, quantize_affine, quantize_static, dequantize = Quantize(), QuantizeAffine(), QuantizeStatic(), Dequantize()
quantized_linear, scaled_linear, quantized_embed = QuantizedLinear(), ScaledLinear(), QuantizedEmbed()
