"""Which experts a token goes to, and the sum of what they make of it (mixture of experts: Shazeer et al. 2017)."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import div, mul
from warploom.ir.ops.norm import along_rows, softmax
from warploom.ir.ops.reduce import reduce_sum, top_k
from warploom.ir.types import DType, TensorType, tensor

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class RouteExperts(Op):
    """The k experts with the largest parts of softmax(logits), descending, the lowest index of equal ones first.

    `normalized` 1: shares are parts of the sum over the chosen; 0: of the sum over all.
    """

    name = "route_experts"
    operands = (activation("logits"),)
    attributes = (Attribute("k", Kind.INT), Attribute("normalized", Kind.INT))
    results = ("shares", "experts")

    def infer(self, logits: TensorType, *, k: int, normalized: int) -> tuple[TensorType, TensorType]:
        """F32 [T, k] and i32 [T, k] of logits [T, E]."""
        count = logits.shape[1] if logits.rank == 2 else None
        if not isinstance(count, int) or not 1 <= k <= count or normalized not in (0, 1):
            raise IRError("logits are [T, E], E static, and k at most E", found=f"{logits}, k = {k}, {normalized}")
        shape = (logits.shape[0], k)
        return tensor(shape), tensor(shape, DType.I32)

    def evaluate(self, logits: np.ndarray, *, k: int, normalized: int) -> tuple[np.ndarray, np.ndarray]:
        """In the dtype of the logits."""
        shares, experts = top_k.evaluate(softmax.evaluate(logits), k=k)
        return shares / (shares.sum(1, keepdims=True) if normalized else 1), experts

    def decompose(self, logits: mlir.Value, *, k: int, normalized: int) -> tuple[mlir.Value, mlir.Value]:
        """Softmax, top_k, a division."""
        shares, experts = top_k(softmax(logits), k=k)
        if normalized:
            shares = div(shares, along_rows(reduce_sum(shares, axis=1), shares))
        return shares, experts

    def generate(self, choose: Chooser) -> Generated:
        """Few of up to eight experts."""
        count = choose.integer(1, 8)
        logits = choose.like(tensor((choose.symbol(), count), choose.choice([DType.F32, DType.BF16])))
        return [logits], {"k": choose.integer(1, min(count, 3)), "normalized": choose.integer(0, 1)}


class CombineExperts(Op):
    """z[t] = sum over j of shares[t, j] * y[t, j], in the order of j."""

    name = "combine_experts"
    operands = (activation("y"), Operand("shares", frozenset({DType.F32})))

    def infer(self, y: TensorType, shares: TensorType) -> TensorType:
        """[T, n] of y [T, J, n] and shares [T, J]."""
        if y.rank != 3 or not shares.matches(tensor(y.shape[:2])):
            raise IRError("y is [T, J, n] and shares [T, J]", found=f"{y}, {shares}")
        return y.with_shape((y.shape[0], y.shape[2]))

    def evaluate(self, y: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """In the dtype of y."""
        return np.einsum("tjn,tj->tn", y, shares.astype(y.dtype))

    def decompose(self, y: mlir.Value, shares: mlir.Value) -> mlir.Value:
        """A product, a sum."""
        result: mlir.Value = reduce_sum(mul(y, along_rows(shares, y)), axis=1)
        return result

    def generate(self, choose: Chooser) -> Generated:
        """Up to three results a token."""
        choices, n, tokens = choose.integer(1, 3), choose.choice([1, 5, 18]), choose.symbol()
        y = choose.like(tensor((tokens, choices, n), choose.choice([DType.F32, DType.BF16])))
        return [y, choose.like(tensor((tokens, choices)))], {}


route_experts, combine_experts = RouteExperts(), CombineExperts()
