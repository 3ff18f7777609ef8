"""Rotary position embedding."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.op import Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import add, mul, sub
from warploom.ir.ops.shape import broadcast, concat, slice_axis
from warploom.ir.types import DType, TensorType, tensor, type_of

F32 = frozenset({DType.F32})


class Rope(Op):
    """Rotates pairs (i, i + R/2) of the first R elements of each head by the token's angles.

    Su et al. 2021; HF apply_rotary_pos_emb. R is twice the number of angles; elements from R on pass as they are. A
    model that rotates neighbours (2i, 2i + 1) has the rows of its q and k weights reordered instead: scores do not
    depend on the order of a head's elements.
    """

    name = "rope"
    operands = (activation("x"), Operand("cos", F32), Operand("sin", F32))

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType) -> TensorType:
        """x [T, H, D], cos and sin [T, R/2] with R <= D."""
        size = x.shape[-1] if x.rank == 3 else None
        half = cos.shape[-1] if cos.rank == 2 else None
        if not isinstance(size, int) or not isinstance(half, int) or 2 * half > size:
            raise IRError(
                "x must be [tokens, heads, a static size], with at most half as many angles", found=f"{x}, {cos}"
            )
        table = tensor((x.shape[0], half), DType.F32)
        if not cos.matches(table) or not sin.matches(table):
            raise IRError("wrong angles", expected=str(table), found=f"{cos}, {sin}")
        return x

    def evaluate(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        """Both halves at once."""
        half = cos.shape[-1]
        low, high, rest = np.split(x, [half, 2 * half], -1)
        cos, sin = cos[:, None], sin[:, None]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], -1)

    def decompose(self, x: mlir.Value, cos: mlir.Value, sin: mlir.Value) -> mlir.Value:
        """Slices, four products, a concat."""
        size, half = type_of(x).shape[-1], type_of(cos).shape[-1]
        assert isinstance(size, int)
        assert isinstance(half, int)
        low = slice_axis(x, axis=2, start=0, stop=half)
        high = slice_axis(x, axis=2, start=half, stop=2 * half)
        c, s = (broadcast(t, shape=type_of(low).shape, dims=(0, 2)) for t in (cos, sin))
        rest = [slice_axis(x, axis=2, start=2 * half, stop=size)] if 2 * half < size else []
        return concat(sub(mul(low, c), mul(high, s)), add(mul(high, c), mul(low, s)), *rest, axis=2)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A value with one to three heads, sometimes with elements that pass."""
        rows, half = choose.symbol(), choose.choice([1, 4, 32])
        size = 2 * half + choose.choice([0, 0, 3])
        x = choose.like(tensor((rows, choose.integer(1, 3), size), choose.choice([DType.F32, DType.BF16])))
        return [x, *(choose.input(tensor((rows, half)), -1, 1) for _ in range(2))], {}


rope = Rope()
