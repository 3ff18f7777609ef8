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
    """Rotates pairs (i, i + D/2) of each head by the token's angles (Su et al. 2021; HF apply_rotary_pos_emb)."""

    name = "rope"
    operands = (activation("x"), Operand("cos", F32), Operand("sin", F32))

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType) -> TensorType:
        """x [T, H, D], cos and sin [T, D/2]."""
        size = x.shape[-1] if x.rank == 3 else 1
        if not isinstance(size, int) or size % 2:
            raise IRError("x must be [tokens, heads, an even static size]", found=str(x))
        table = tensor((x.shape[0], size // 2), DType.F32)
        if not cos.matches(table) or not sin.matches(table):
            raise IRError("wrong angles", expected=str(table), found=f"{cos}, {sin}")
        return x

    def evaluate(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        """Both halves at once."""
        low, high = np.split(x, 2, -1)
        cos, sin = cos[:, None], sin[:, None]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    def decompose(self, x: mlir.Value, cos: mlir.Value, sin: mlir.Value) -> mlir.Value:
        """Slices, four products, a concat."""
        size = type_of(x).shape[-1]
        assert isinstance(size, int)
        low = slice_axis(x, axis=2, start=0, stop=size // 2)
        high = slice_axis(x, axis=2, start=size // 2, stop=size)
        c, s = (broadcast(t, shape=type_of(low).shape, dims=(0, 2)) for t in (cos, sin))
        return concat(sub(mul(low, c), mul(high, s)), add(mul(high, c), mul(low, s)), axis=2)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A value with one to three heads."""
        rows, half = choose.symbol(), choose.choice([1, 4, 32])
        x = choose.like(tensor((rows, choose.integer(1, 3), 2 * half), choose.choice([DType.F32, DType.BF16])))
        return [x, *(choose.input(tensor((rows, half)), -1, 1) for _ in range(2))], {}


rope = Rope()
