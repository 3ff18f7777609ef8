"""Matrix products with weights of few bits."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.dequantize import BYTES, PARTS, SCALES, check_groups, core_dequantized, dequantized
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import LAYOUT, check_weight, contract
from warploom.ir.ops.packing import static
from warploom.ir.ops.quantized_weight import check_sides, core_weight, generate_weight, weight_values
from warploom.ir.ops.shape import broadcast, reshape
from warploom.ir.types import DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class QuantizedLinear(Op):
    """`linear` with a quantized weight, whose numbers are read as the dtype of x."""

    name = "quantized_linear"
    operands = (activation("x"), *PARTS)
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
        return x @ weight_values(q, scale, offset, n, layout).astype(x.dtype).T

    def decompose(
        self, x: mlir.Value, q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None = None, *, n: int, layout: str
    ) -> mlir.Value:
        """Unpack, dequantize, contract."""
        return contract(x, core_weight(q, scale, offset, n, layout))

    def generate(self, choose: Chooser) -> Generated:
        """Rows of a value times a fresh weight in any layout."""
        weight, attrs, k = generate_weight(choose)
        return [choose.like(tensor((choose.symbol(), k), choose.choice([DType.F32, DType.BF16]))), *weight], attrs


class ScaledLinear(Op):
    """`linear` of quantized activations and a quantized weight: both are read as what they stand for, in f32.

    x_scale is [.., groups of x], or [1]: one for everything. `dtype` is of the result.
    """

    name = "scaled_linear"
    operands = (
        Operand("x", BYTES),
        Operand("x_scale", SCALES),
        *PARTS,
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
        return dequantized(x, wide, None) @ weight_values(q, scale, offset, n, layout).T

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
        values = core_dequantized(cast(x, dtype="f32"), x_scale, None)
        return contract(values, core_weight(q, scale, offset, n, layout))

    def generate(self, choose: Chooser) -> Generated:
        """Fresh numbers of few bits on both sides."""
        weight, attrs, k = generate_weight(choose)
        rows = choose.symbol()
        x = choose.input(tensor((rows, k), choose.choice(sorted(BYTES))), -127, 127)
        scales = tensor(choose.choice([(rows, 1), (rows, 2), (1,)]))
        dtype = choose.choice(["f32", "bf16"])
        return [x, choose.input(scales, 0.001, 0.01), *weight], attrs | {"dtype": dtype}


quantized_linear, scaled_linear = QuantizedLinear(), ScaledLinear()
