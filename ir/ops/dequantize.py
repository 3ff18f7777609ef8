"""What numbers of few bits stand for.

The last axis of a quantized value is cut into equal groups, as many as its scales have columns. A number stands for
q * scale of its group, + offset of its group where there are offsets (asymmetric schemes). Numbers are i8, f8 (E4M3)
or i4. Activations [.., K] have scales [.., groups]; for weights in a packed layout see `quantized_weight.py`.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.dims import Shape
from warploom.ir.op import Chooser, Op, Operand
from warploom.ir.ops.elementwise import add, cast, mul
from warploom.ir.ops.packing import static
from warploom.ir.ops.shape import broadcast, reshape
from warploom.ir.types import QUANTIZED, DType, TensorType, tensor, type_of

BYTES = frozenset({DType.I8, DType.F8})
SCALES = frozenset({DType.F32, DType.F16, DType.BF16})
PARTS = (Operand("q", QUANTIZED), Operand("scale", SCALES), Operand("offset", SCALES, optional=True))
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Dequantize(Op):
    """q * scale (+ offset) as f32."""

    name = "dequantize"
    operands = PARTS

    def infer(self, q: TensorType, scale: TensorType, offset: TensorType | None = None) -> TensorType:
        """f32 of the shape of q."""
        check_groups(q.shape, scale, offset)
        return q.with_dtype(DType.F32)

    def evaluate(self, q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
        """In the dtype of the scale."""
        return dequantized(q, scale, offset)

    def decompose(self, q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None = None) -> mlir.Value:
        """Cast, a product, a sum."""
        return core_dequantized(cast(q, dtype="f32"), scale, offset)

    def generate(self, choose: Chooser) -> Generated:
        """Fresh numbers."""
        n, groups = choose.integer(1, 40), choose.choice([1, 2])
        dtype = choose.choice(sorted(BYTES))
        q = choose.input(tensor((n, 8), dtype), -127, 127)
        return [q, *generate_sides(choose, (n, groups))], {}


def check_groups(shape: Shape, scale: TensorType, offset: TensorType | None) -> None:
    """Scales or offsets that do not divide the last axis of `shape` evenly are an IRError."""
    k, groups = (shape[-1] if shape else 0), (scale.shape[-1] if scale.rank else 0)
    even = isinstance(k, int) and isinstance(groups, int) and groups > 0 and k % groups == 0
    if not even or not scale.matches(tensor((*shape[:-1], groups), scale.dtype)):
        raise IRError("scales do not fit", expected=f"[.., groups] for {shape}", found=str(scale))
    if offset is not None and not offset.matches(scale):
        raise IRError("offsets differ from scales", expected=str(scale), found=str(offset))


def dequantized(q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """q [.., K] with scales [.., groups] as what it stands for."""
    number = scale.dtype if scale.dtype == np.float64 else np.dtype(np.float32)
    grouped = q.reshape(*q.shape[:-1], scale.shape[-1], -1).astype(number) * scale[..., None].astype(number)
    if offset is not None:
        grouped = grouped + offset[..., None].astype(number)
    return grouped.reshape(q.shape)


def core_dequantized(q: mlir.Value, scale: mlir.Value, offset: mlir.Value | None) -> mlir.Value:
    """`dequantized` in core ops, of q widened already."""
    dims = type_of(q).shape
    groups = type_of(scale).shape[-1]
    grouped = reshape(q, shape=(*dims[:-1], groups, static(dims[-1]) // static(groups)))
    result = mul(grouped, over_groups(cast(scale, dtype="f32"), grouped))
    if offset is not None:
        result = add(result, over_groups(cast(offset, dtype="f32"), grouped))
    return reshape(result, shape=dims)


def over_groups(per_group: mlir.Value, grouped: mlir.Value) -> mlir.Value:
    """One number per group [.., groups] over [.., groups, group]."""
    dims = type_of(grouped).shape
    result: mlir.Value = broadcast(per_group, shape=dims, dims=tuple(range(len(dims) - 1)))
    return result


def generate_sides(choose: Chooser, shape: Shape) -> list[mlir.Value]:
    """Fresh scales of a shape, and perhaps offsets."""
    dtype = choose.choice([DType.F32, DType.F16])
    scale = choose.input(tensor(shape, dtype), 0.001, 0.01)
    return [scale, choose.input(tensor(shape, dtype), -1, 1)] if choose.integer(0, 2) == 2 else [scale]


dequantize = Dequantize()
