"""Matrix products with weights, how weights are packed and quantized, and row lookup in the same tables.

Layouts of a weight of N output rows and K columns:

- `row`: [N, K], as checkpoints store it;
- `panel`: [ceil(N/32), K, 32], 32 output rows side by side so that a vector load feeds 32 outputs; zero padded;
- `panel_pair`: the same, with the panels of the first and second half of N alternating (gate beside up).

The scales of a quantized weight are a matrix of N rows and one column in the layout of the weight.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import Shape, equal
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import absolute, as_dtype, cast, compare, div, mul, round_even, select
from warploom.ir.ops.reduce import dot_general, reduce_max
from warploom.ir.ops.shape import broadcast, full, gather, pad, reshape, slice_axis, transpose
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

PANEL = 32
LAYOUTS = ("row", "panel", "panel_pair")
F32, I8, I32 = frozenset({DType.F32}), frozenset({DType.I8}), frozenset({DType.I32})
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]
LAYOUT = (Attribute("n", Kind.INT), Attribute("layout", Kind.STR))


def packed_shape(n: int, k: int, layout: str) -> Shape:
    """Shape of an [n, k] weight in a layout.

    Raises:
        IRError: unknown layout, or `panel_pair` of halves that are no whole panels.
    """
    if layout not in LAYOUTS:
        raise IRError("unknown layout", expected=", ".join(LAYOUTS), found=layout)
    if layout == "panel_pair" and n % (2 * PANEL):
        raise IRError("panel_pair needs two halves of whole panels", expected=f"n % {2 * PANEL} == 0", found=str(n))
    return (n, k) if layout == "row" else (-(-n // PANEL), k, PANEL)


def pack_array(weight: np.ndarray, layout: str) -> np.ndarray:
    """[n, k] to a layout."""
    n, k = weight.shape
    if layout == "row":
        return weight
    panels = -(-n // PANEL)
    padded = np.zeros((panels * PANEL, k), weight.dtype)
    padded[:n] = weight
    result = padded.reshape(panels, PANEL, k).transpose(0, 2, 1)
    if layout == "panel_pair":
        result = result.reshape(2, panels // 2, k, PANEL).swapaxes(0, 1).reshape(panels, k, PANEL)
    return np.ascontiguousarray(result)


def unpack_array(packed: np.ndarray, n: int, layout: str) -> np.ndarray:
    """A layout back to [n, k]."""
    if layout == "row":
        return packed
    panels, k, _ = packed.shape
    if layout == "panel_pair":
        packed = packed.reshape(panels // 2, 2, k, PANEL).swapaxes(0, 1).reshape(panels, k, PANEL)
    return packed.transpose(0, 2, 1).reshape(panels * PANEL, k)[:n]


def rows_of(packed: np.ndarray, rows: np.ndarray, layout: str) -> np.ndarray:
    """Some rows of a packed [n, k]: [*rows.shape, k]."""
    if layout == "row":
        return packed[rows]
    panel, half = rows // PANEL, packed.shape[0] // 2
    if layout == "panel_pair":
        panel = panel % half * 2 + panel // half
    return packed[panel, :, rows % PANEL]


def unpack(packed: mlir.Value, n: int, layout: str) -> mlir.Value:
    """`unpack_array` in core ops."""
    if layout == "row":
        return packed
    panels, k, _ = type_of(packed).shape
    assert isinstance(panels, int)
    if layout == "panel_pair":
        halves = reshape(packed, shape=(panels // 2, 2, k, PANEL))
        packed = reshape(transpose(halves, permutation=(1, 0, 2, 3)), shape=(panels, k, PANEL))
    rows = reshape(transpose(packed, permutation=(0, 2, 1)), shape=(panels * PANEL, k))
    return rows if n == panels * PANEL else slice_axis(rows, axis=0, start=0, stop=n)


class Pack(Op):
    """A row-layout weight in another layout."""

    name = "pack"
    operands = (Operand("weight"),)
    attributes = (Attribute("layout", Kind.STR),)

    def infer(self, weight: TensorType, *, layout: str) -> TensorType:
        """See `packed_shape`."""
        n, k = _static_matrix(weight)
        return weight.with_shape(packed_shape(n, k, layout))

    def evaluate(self, weight: np.ndarray, *, layout: str) -> np.ndarray:
        """`pack_array`."""
        return pack_array(weight, layout)

    def decompose(self, weight: mlir.Value, *, layout: str) -> mlir.Value:
        """Pad, split into panels, transpose each."""
        n, k = _static_matrix(type_of(weight))
        if layout == "row":
            return weight
        panels = -(-n // PANEL)
        if n % PANEL:
            weight = pad(weight, axis=0, low=0, high=panels * PANEL - n, value=0.0)
        result = transpose(reshape(weight, shape=(panels, PANEL, k)), permutation=(0, 2, 1))
        if layout == "panel_pair":
            halves = transpose(reshape(result, shape=(2, panels // 2, k, PANEL)), permutation=(1, 0, 2, 3))
            result = reshape(halves, shape=(panels, k, PANEL))
        return result

    def generate(self, choose: Chooser) -> Generated:
        """A weight with and without a ragged last panel."""
        n, layout = choose.choice([(5, "panel"), (64, "panel"), (64, "panel_pair")])
        return [choose.like(tensor((n, choose.integer(1, 4))))], {"layout": layout}


class Linear(Op):
    """y = x @ W^T over the last axis of x; W of any float dtype is read as the dtype of x. n is the rows of W."""

    name = "linear"
    operands = (activation("x"), Operand("weight", FLOATS))
    attributes = LAYOUT

    def infer(self, x: TensorType, weight: TensorType, *, n: int, layout: str) -> TensorType:
        """[.., n]."""
        _check_weight(x, weight, n, layout)
        return x.with_shape((*x.shape[:-1], n))

    def evaluate(self, x: np.ndarray, weight: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """One matrix product."""
        return x @ unpack_array(weight, n, layout).astype(x.dtype).T

    def decompose(self, x: mlir.Value, weight: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Unpack, cast, contract."""
        return _contract(x, cast(unpack(weight, n, layout), dtype="f32"))

    def generate(self, choose: Chooser) -> Generated:
        """Rows of a value times a fresh weight in any layout."""
        x, n, k, layout = _generate_product(choose)
        dtype = choose.choice([DType.F32, DType.BF16])
        return [x, choose.input(tensor(packed_shape(n, k, layout), dtype), -1, 1)], {"n": n, "layout": layout}


class Quantize(Op):
    """Symmetric int8 per row: scale = max|w| / 127, q = round(w / scale); a zero row has scale 1."""

    name = "quantize"
    operands = (Operand("weight", FLOATS),)
    results = ("q", "scale")

    def infer(self, weight: TensorType) -> tuple[TensorType, TensorType]:
        """int8 of the same shape and f32 scales [N, 1]."""
        _static_matrix(weight)
        return weight.with_dtype(DType.I8), tensor((weight.shape[0], 1), DType.F32)

    def evaluate(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round to nearest, ties to even."""
        peak = np.abs(weight).max(-1, keepdims=True)
        scale = peak / weight.dtype.type(127)
        scale = np.where(scale > 0, scale, weight.dtype.type(1))
        return np.rint(weight / scale).astype(np.int8), scale

    def decompose(self, weight: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        """Row maxima of the magnitude, a quotient, a rounding."""
        wide = as_dtype(weight, DType.F32)
        n, k = _static_matrix(type_of(wide))

        def every(shape: Shape, value: float) -> mlir.Value:
            return full(shape=shape, value=value, dtype="f32")

        scale = div(reduce_max(absolute(wide), axis=1), every((n,), 127.0))
        scale = select(compare(scale, every((n,), 0.0), direction="gt"), scale, every((n,), 1.0))
        quotient = div(wide, broadcast(scale, shape=(n, k), dims=(0,)))
        return cast(round_even(quotient), dtype="i8"), reshape(scale, shape=(n, 1))

    def generate(self, choose: Chooser) -> Generated:
        """A fresh weight."""
        return [choose.input(tensor((choose.integer(1, 40), choose.integer(1, 5))), -1, 1)], {}


class Dequantize(Op):
    """q * scale, one scale per row."""

    name = "dequantize"
    operands = (Operand("q", I8), Operand("scale", F32))

    def infer(self, q: TensorType, scale: TensorType) -> TensorType:
        """f32 of the shape of q."""
        if q.rank != 2:
            raise IRError("q must be a matrix", found=str(q))
        _check_scale(scale, (q.shape[0], 1))
        return q.with_dtype(DType.F32)

    def evaluate(self, q: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """In the dtype of the scale."""
        return q.astype(scale.dtype) * scale

    def decompose(self, q: mlir.Value, scale: mlir.Value) -> mlir.Value:
        """Cast, then a product."""
        wide = cast(q, dtype="f32")
        return mul(wide, broadcast(scale, shape=type_of(q).shape, dims=(0, 1)))

    def generate(self, choose: Chooser) -> Generated:
        """Fresh numbers."""
        n, k = choose.integer(1, 40), choose.integer(1, 5)
        return [choose.input(tensor((n, k), DType.I8), -127, 127), choose.input(tensor((n, 1)), 0.01, 0.1)], {}


class QuantizedLinear(Op):
    """`linear` with an int8 weight and one scale per output: y[n] = (x @ q[n]) * scale[n]."""

    name = "quantized_linear"
    operands = (activation("x"), Operand("q", I8), Operand("scale", F32))
    attributes = LAYOUT

    def infer(self, x: TensorType, q: TensorType, scale: TensorType, *, n: int, layout: str) -> TensorType:
        """[.., n]; scale [n, 1] in the layout of q."""
        _check_weight(x, q, n, layout)
        _check_scale(scale, packed_shape(n, 1, layout))
        return x.with_shape((*x.shape[:-1], n))

    def evaluate(self, x: np.ndarray, q: np.ndarray, scale: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """Scale after the product."""
        return (x @ unpack_array(q, n, layout).astype(x.dtype).T) * unpack_array(scale, n, layout)[:, 0]

    def decompose(self, x: mlir.Value, q: mlir.Value, scale: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Unpack, dequantize, contract."""
        return _contract(x, dequantize(unpack(q, n, layout), unpack(scale, n, layout)))

    def generate(self, choose: Chooser) -> Generated:
        """Rows of a value times a fresh weight in any layout."""
        x, n, k, layout = _generate_product(choose)
        q = choose.input(tensor(packed_shape(n, k, layout), DType.I8), -127, 127)
        scale = choose.input(tensor(packed_shape(n, 1, layout)), 0.001, 0.01)
        return [x, q, scale], {"n": n, "layout": layout}


class Embed(Op):
    """Rows of an embedding table as f32; ids outside are clamped. n is the rows of the table."""

    name = "embed"
    operands = (Operand("ids", I32), Operand("table", FLOATS))
    attributes = LAYOUT

    def infer(self, ids: TensorType, table: TensorType, *, n: int, layout: str) -> TensorType:
        """f32 [.., K]."""
        return _embedding_type(ids, table, n, layout)

    def evaluate(self, ids: np.ndarray, table: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """Integer-array indexing."""
        return rows_of(table, np.clip(ids, 0, n - 1), layout)

    def decompose(self, ids: mlir.Value, table: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Unpack, gather, cast."""
        return cast(gather(unpack(table, n, layout), ids), dtype="f32")

    def generate(self, choose: Chooser) -> Generated:
        """Ids in and just outside of the range over a fresh table."""
        n, layout = choose.choice([(7, "row"), (40, "panel"), (64, "panel_pair")])
        table = tensor(packed_shape(n, choose.integer(1, 5), layout), choose.choice([DType.F32, DType.BF16]))
        ids = choose.input(tensor((choose.symbol(),), DType.I32), -1, n)
        return [ids, choose.input(table, -1, 1)], {"n": n, "layout": layout}


class QuantizedEmbed(Op):
    """`embed` from an int8 table with one scale per row."""

    name = "quantized_embed"
    operands = (Operand("ids", I32), Operand("q", I8), Operand("scale", F32))
    attributes = LAYOUT

    def infer(self, ids: TensorType, q: TensorType, scale: TensorType, *, n: int, layout: str) -> TensorType:
        """f32 [.., K]; scale [n, 1] in the layout of q."""
        _check_scale(scale, packed_shape(n, 1, layout))
        return _embedding_type(ids, q, n, layout)

    def evaluate(self, ids: np.ndarray, q: np.ndarray, scale: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """Gather, then scale."""
        rows = np.clip(ids, 0, n - 1)
        return rows_of(q, rows, layout).astype(scale.dtype) * rows_of(scale, rows, layout)

    def decompose(self, ids: mlir.Value, q: mlir.Value, scale: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Gather rows and scales, cast, multiply."""
        rows = cast(gather(unpack(q, n, layout), ids), dtype="f32")
        scales = gather(unpack(scale, n, layout), ids)  # [.., 1]
        dims = type_of(rows).shape
        return mul(rows, broadcast(scales, shape=dims, dims=tuple(range(len(dims)))))

    def generate(self, choose: Chooser) -> Generated:
        """Ids in and just outside of the range over a fresh table."""
        n, layout = choose.choice([(7, "row"), (40, "panel"), (64, "panel_pair")])
        q = tensor(packed_shape(n, choose.integer(1, 5), layout), DType.I8)
        ids = choose.input(tensor((choose.symbol(),), DType.I32), -1, n)
        scale = choose.input(tensor(packed_shape(n, 1, layout)), 0.001, 0.01)
        return [ids, choose.input(q, -127, 127), scale], {"n": n, "layout": layout}


def _contract(x: mlir.Value, weight: mlir.Value) -> mlir.Value:
    last = type_of(x).rank - 1
    return dot_general(x, weight, x_contract=(last,), y_contract=(1,), x_batch=(), y_batch=())


def _static_matrix(weight: TensorType) -> tuple[int, int]:
    if weight.rank != 2 or not weight.is_static:
        raise IRError("a weight is a static matrix", found=str(weight))
    n, k = weight.shape
    assert isinstance(n, int)
    assert isinstance(k, int)
    return n, k


def _check_weight(x: TensorType, weight: TensorType, n: int, layout: str) -> None:
    k = x.shape[-1] if x.rank else 0
    if not isinstance(k, int) or not weight.matches(tensor(packed_shape(n, k, layout), weight.dtype)):
        raise IRError(f"weight does not fit x in layout {layout}, n={n}", expected=str(x), found=str(weight))


def _check_scale(scale: TensorType, wanted: Shape) -> None:
    if not scale.matches(tensor(wanted, DType.F32)):
        raise IRError("one scale per row is needed", expected=str(tensor(wanted)), found=str(scale))


def _embedding_type(ids: TensorType, table: TensorType, n: int, layout: str) -> TensorType:
    k = table.shape[1] if table.rank >= 2 else 0
    if not isinstance(k, int) or not equal(table.rank, 2 if layout == "row" else 3):
        raise IRError("a table is a static matrix", found=str(table))
    if not table.matches(tensor(packed_shape(n, k, layout), table.dtype)):
        raise IRError(f"table does not fit layout {layout}, n={n}", found=str(table))
    return tensor((*ids.shape, k), DType.F32)


def _generate_product(choose: Chooser) -> tuple[mlir.Value, int, int, str]:
    n, layout = choose.choice([(5, "row"), (5, "panel"), (40, "panel"), (64, "panel_pair")])
    k = choose.choice([1, 3, 16, 37])
    dtype = choose.choice([DType.F32, DType.BF16])
    return choose.like(tensor((choose.symbol(), k), dtype)), n, k, layout


pack, linear, quantize, dequantize = Pack(), Linear(), Quantize(), Dequantize()
quantized_linear, embed, quantized_embed = QuantizedLinear(), Embed(), QuantizedEmbed()
