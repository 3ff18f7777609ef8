"""Lookup of rows in tables of numbers of few bits."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.attributes import AttrValue
from warploom.ir.layouts import rows_of, side_layout
from warploom.ir.op import Chooser, Op, Operand
from warploom.ir.ops.dequantize import PARTS, core_dequantized, dequantized
from warploom.ir.ops.linear import LAYOUT, embedding_type
from warploom.ir.ops.packing import static, unpacked
from warploom.ir.ops.quantized_weight import check_sides, generate_weight
from warploom.ir.ops.shape import gather
from warploom.ir.types import DType, TensorType, tensor

I32 = frozenset({DType.I32})
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class QuantizedEmbed(Op):
    """`embed` from a quantized table."""

    name = "quantized_embed"
    operands = (Operand("ids", I32), *PARTS)
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
        return dequantized(rows_of(q, rows, layout), sides[0], sides[1])

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
        return core_dequantized(gather(unpacked(q, n, layout), ids), sides[0], sides[1])

    def generate(self, choose: Chooser) -> Generated:
        """Ids in and just outside of the range over a fresh table."""
        weight, attrs, _ = generate_weight(choose)
        n = attrs["n"]
        assert isinstance(n, int)
        return [choose.input(tensor((choose.symbol(),), DType.I32), -1, n), *weight], attrs


quantized_embed = QuantizedEmbed()
