"""A weight of few bits in a packed layout, as the ops that read one have it: q, scale and perhaps offset.

A weight of n rows has scales [n, groups], in `side_layout` of its layout; of i4 weights two numbers are one byte.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.layouts import layout_of, packed_shape, side_layout, unpack_array
from warploom.ir.op import Chooser
from warploom.ir.ops.dequantize import BYTES, core_dequantized, dequantized, generate_sides
from warploom.ir.ops.packing import packed_weight, unpacked
from warploom.ir.types import DType, TensorType, tensor


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


def weight_values(q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None, n: int, layout: str) -> np.ndarray:
    """The weight [n, K] in row layout as what it stands for."""
    side = side_layout(layout)
    return dequantized(
        unpack_array(q, n, layout),
        unpack_array(scale, n, side),
        None if offset is None else unpack_array(offset, n, side),
    )


def core_weight(q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None, n: int, layout: str) -> mlir.Value:
    """`weight_values` in core ops, as f32."""
    side = side_layout(layout)
    sides = [None if s is None else unpacked(s, n, side) for s in (scale, offset)]
    numbers = unpacked(q, n, layout)
    return core_dequantized(numbers, sides[0], sides[1])


def generate_weight(choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue], int]:
    """Operands q, scale and perhaps offset of a weight in any layout, its attributes and its columns."""
    n, k, layout = choose.choice([
        (5, 6, "row"), (5, 32, "row4"), (40, 6, "panel"), (64, 6, "panel_pair"),
        (40, 8, "quad"), (64, 8, "quad_pair"), (40, 16, "quad4"), (64, 16, "quad4_pair"),
    ])  # fmt: skip
    dtype = DType.I8 if layout_of(layout).nibbles else choose.choice(sorted(BYTES, reverse=True))
    q = choose.input(tensor(packed_shape(n, k, layout), dtype), -127, 127)
    sides = generate_sides(choose, packed_shape(n, choose.choice([1, 2]), side_layout(layout)))
    return [q, *sides], {"n": n, "layout": layout}, k
