"""A matrix product for each head: what absorbed weights of latent attention are multiplied with."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.reduce import dot_general
from warploom.ir.ops.shape import reshape, transpose
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class HeadLinear(Op):
    """y[t, h] = x[t, h] @ W[h]^T; the weight is the n rows of each head after one another, [H * n, K].

    The weight is read as the dtype of x.
    """

    name = "head_linear"
    operands = (activation("x"), Operand("weight", FLOATS))
    attributes = (Attribute("n", Kind.INT),)

    def infer(self, x: TensorType, weight: TensorType, *, n: int) -> TensorType:
        """x [T, H, K]; [T, H, n]."""
        if x.rank != 3 or not isinstance(x.shape[1], int) or not isinstance(x.shape[2], int) or n < 1:
            raise IRError("x is [T, H, K], H and K static, and n positive", found=f"{x}, n={n}")
        tokens, heads, k = x.shape
        if not weight.matches(weight.with_shape((heads * n, k))):
            raise IRError("the weight has other heads than x", expected=f"[{heads * n}, {k}]", found=str(weight))
        return x.with_shape((tokens, heads, n))

    def evaluate(self, x: np.ndarray, weight: np.ndarray, *, n: int) -> np.ndarray:
        """One batched matrix product."""
        each = weight.astype(x.dtype).reshape(x.shape[1], n, x.shape[2])
        return np.einsum("thk,hnk->thn", x, each)

    def decompose(self, x: mlir.Value, weight: mlir.Value, *, n: int) -> mlir.Value:
        """A contraction by heads."""
        _, heads, k = type_of(x).shape
        each = reshape(cast(weight, dtype="f32"), shape=(heads, n, k))
        y = dot_general(x, each, x_contract=(2,), y_contract=(2,), x_batch=(1,), y_batch=(0,))  # [H, T, n]
        result: mlir.Value = transpose(y, permutation=(1, 0, 2))
        return result

    def generate(self, choose: Chooser) -> Generated:
        """Up to three heads of sizes that are no multiples of anything."""
        heads, k, n = choose.integer(1, 3), choose.choice([1, 3, 16, 37]), choose.choice([1, 5, 18])
        x = choose.like(tensor((choose.symbol(), heads, k), choose.choice([DType.F32, DType.BF16])))
        weight = choose.input(tensor((heads * n, k), choose.choice([DType.F32, DType.BF16])), -1, 1)
        return [x, weight], {"n": n}


head_linear = HeadLinear()
