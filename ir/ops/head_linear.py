"""A matrix product for each head: what absorbed weights of latent attention are multiplied with."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import cast, mul
from warploom.ir.ops.reduce import dot_general
from warploom.ir.ops.shape import broadcast, reshape, transpose
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class HeadLinear(Op):
    """y[t, h] = x[t, h] @ W[h]^T; the weight is the n rows of each head after one another, [H * n, K].

    The weight is read as the dtype of x. Numbers of i8 have an f32 scale for every row, [H * n, 1].
    """

    name = "head_linear"
    operands = (
        activation("x"),
        Operand("weight", FLOATS | {DType.I8}),
        Operand("scale", frozenset({DType.F32}), optional=True),
    )
    attributes = (Attribute("n", Kind.INT),)

    def infer(self, x: TensorType, weight: TensorType, scale: TensorType | None = None, *, n: int) -> TensorType:
        """x [T, H, K]; [T, H, n]."""
        if x.rank != 3 or not isinstance(x.shape[1], int) or not isinstance(x.shape[2], int) or n < 1:
            raise IRError("x is [T, H, K], H and K static, and n positive", found=f"{x}, n={n}")
        tokens, heads, k = x.shape
        if not weight.matches(weight.with_shape((heads * n, k))):
            raise IRError("the weight has other heads than x", expected=f"[{heads * n}, {k}]", found=str(weight))
        if (weight.dtype is DType.I8) != (scale is not None and scale.matches(tensor((heads * n, 1)))):
            wanted = f"f32 [{heads * n}, 1] of numbers of i8, none of floats"
            raise IRError("scales do not fit the weight", expected=wanted, found=str(scale or "none"))
        return x.with_shape((tokens, heads, n))

    def evaluate(self, x: np.ndarray, weight: np.ndarray, scale: np.ndarray | None = None, *, n: int) -> np.ndarray:
        """One batched matrix product."""
        values = weight.astype(x.dtype) if scale is None else (weight * scale).astype(x.dtype)
        return np.einsum("thk,hnk->thn", x, values.reshape(x.shape[1], n, x.shape[2]))

    def decompose(self, x: mlir.Value, weight: mlir.Value, scale: mlir.Value | None = None, *, n: int) -> mlir.Value:
        """A contraction by heads."""
        _, heads, k = type_of(x).shape
        values = cast(weight, dtype="f32")
        if scale is not None:
            values = mul(values, broadcast(scale, shape=type_of(values).shape, dims=(0, 1)))
        each = reshape(values, shape=(heads, n, k))
        y = dot_general(x, each, x_contract=(2,), y_contract=(2,), x_batch=(1,), y_batch=(0,))  # [H, T, n]
        result: mlir.Value = transpose(y, permutation=(1, 0, 2))
        return result

    def generate(self, choose: Chooser) -> Generated:
        """Up to three heads of sizes that are no multiples of anything."""
        heads, k, n = choose.integer(1, 3), choose.choice([1, 3, 16, 37]), choose.choice([1, 5, 18])
        x = choose.like(tensor((choose.symbol(), heads, k), choose.choice([DType.F32, DType.BF16])))
        dtype = choose.choice([DType.F32, DType.BF16, DType.I8])
        if dtype is not DType.I8:
            return [x, choose.input(tensor((heads * n, k), dtype), -1, 1)], {"n": n}
        weight = choose.input(tensor((heads * n, k), dtype), -127, 127)
        return [x, weight, choose.input(tensor((heads * n, 1)), 0.001, 0.008)], {"n": n}


head_linear = HeadLinear()
