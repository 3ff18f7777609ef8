"""Matrix products with the chosen ones of many experts (mixture of experts: Shazeer et al. 2017)."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.layouts import packed_shape
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.dequantize import BYTES, PARTS, generate_sides
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.packing import static
from warploom.ir.ops.quantized_weight import check_sides, core_weight, weight_values
from warploom.ir.ops.reduce import dot_general
from warploom.ir.ops.shape import broadcast, gather, reshape
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class ExpertLinear(Op):
    """y[t, j] = x[t, j] @ W[experts[t, j]]^T; the weight is the n rows of each expert after one another, [E * n, K].

    x is [T, J, K] for as many choices J as `experts` [T, J] has, or [T, 1, K]: all experts of a token read the same.
    An expert outside is clamped. The weight is read as the dtype of x.
    """

    name = "expert_linear"
    operands = (activation("x"), Operand("experts", frozenset({DType.I32})), Operand("weight", FLOATS))
    attributes = (Attribute("n", Kind.INT),)

    def infer(self, x: TensorType, experts: TensorType, weight: TensorType, *, n: int) -> TensorType:
        """[T, J, n]."""
        if x.rank != 3 or experts.rank != 2 or not isinstance(experts.shape[1], int):
            raise IRError("x is [T, J or 1, K] and experts [T, J], J static", found=f"{x}, {experts}")
        tokens, choices = experts.shape
        if not any(x.matches(x.with_shape((tokens, rows, x.shape[2]))) for rows in (1, choices)):
            raise IRError("x does not fit the choices", expected=f"[T, 1 or {choices}, K]", found=f"{x}, {experts}")
        rows = weight.shape[0] if weight.rank == 2 else None
        if n < 1 or not isinstance(rows, int) or rows % n or not rows or not weight.matches(
            weight.with_shape((rows, x.shape[2]))
        ):  # fmt: skip
            raise IRError(f"weight is no stack of experts of {n} rows that fit x", expected=str(x), found=str(weight))
        return x.with_shape((tokens, choices, n))

    def evaluate(self, x: np.ndarray, experts: np.ndarray, weight: np.ndarray, *, n: int) -> np.ndarray:
        """One matrix product for each choice."""
        each = weight.astype(x.dtype).reshape(-1, n, x.shape[2])
        chosen = np.clip(experts, 0, len(each) - 1)
        rows = np.broadcast_to(x, (*experts.shape, x.shape[2]))
        y = np.empty((*experts.shape, n), x.dtype)
        for place, expert in np.ndenumerate(chosen):
            y[place] = each[expert] @ rows[place]
        return y

    def decompose(self, x: mlir.Value, experts: mlir.Value, weight: mlir.Value, *, n: int) -> mlir.Value:
        """Gather the matrices of the chosen experts, contract."""
        rows, k = type_of(weight).shape
        assert isinstance(rows, int)
        chosen = gather(reshape(weight, shape=(rows // n, n, k)), experts)
        repeated = broadcast(x, shape=(*type_of(experts).shape, k), dims=(0, 1, 2))
        both = (0, 1)
        result: mlir.Value = dot_general(
            repeated, cast(chosen, dtype="f32"), x_contract=(2,), y_contract=(3,), x_batch=both, y_batch=both
        )
        return result

    def generate(self, choose: Chooser) -> Generated:
        """Up to three choices, in and just outside of up to four experts, of rows of their own or of one row."""
        tokens, choices, count = choose.symbol(), choose.integer(1, 3), choose.integer(1, 4)
        k, n = choose.choice([1, 3, 16, 37]), choose.choice([1, 5, 18])
        rows = choose.choice([1, choices])
        x = choose.like(tensor((tokens, rows, k), choose.choice([DType.F32, DType.BF16])))
        experts = choose.input(tensor((tokens, choices), DType.I32), -1, count)
        weight = choose.input(tensor((count * n, k), choose.choice([DType.F32, DType.BF16])), -1, 1)
        return [x, experts, weight], {"n": n}


class QuantizedExpertLinear(Op):
    """`expert_linear` with a quantized weight (see `quantized_weight.py`), whose values are read as the dtype of x.

    The layout is one of rows: those of an expert are neighbours.
    """

    name = "quantized_expert_linear"
    operands = (activation("x"), Operand("experts", frozenset({DType.I32})), *PARTS)
    attributes = (Attribute("n", Kind.INT), Attribute("layout", Kind.STR))

    def infer(
        self,
        x: TensorType,
        experts: TensorType,
        q: TensorType,
        scale: TensorType,
        offset: TensorType | None = None,
        *,
        n: int,
        layout: str,
    ) -> TensorType:
        """[T, J, n]."""
        if layout not in ("row", "row4") or q.rank != 2:
            raise IRError("weights of experts are rows", expected="layout row or row4", found=f"{layout}, {q}")
        rows, k = static(q.shape[0]), static(q.shape[1]) * (2 if layout == "row4" else 1)
        check_sides(q, k, scale, offset, rows, layout)
        return expert_linear.infer(x, experts, tensor((rows, k), x.dtype), n=n)

    def evaluate(
        self,
        x: np.ndarray,
        experts: np.ndarray,
        q: np.ndarray,
        scale: np.ndarray,
        offset: np.ndarray | None = None,
        *,
        n: int,
        layout: str,
    ) -> np.ndarray:
        """One matrix product for each choice."""
        return expert_linear.evaluate(x, experts, weight_values(q, scale, offset, len(q), layout), n=n)

    def decompose(
        self,
        x: mlir.Value,
        experts: mlir.Value,
        q: mlir.Value,
        scale: mlir.Value,
        offset: mlir.Value | None = None,
        *,
        n: int,
        layout: str,
    ) -> mlir.Value:
        """Unpack, dequantize, gather the matrices of the chosen experts, contract."""
        values = core_weight(q, scale, offset, static(type_of(q).shape[0]), layout)
        return expert_linear.decompose(x, experts, values, n=n)

    def generate(self, choose: Chooser) -> Generated:
        """Up to three choices, in and just outside of up to four experts."""
        tokens, choices, count = choose.symbol(), choose.integer(1, 3), choose.integer(1, 4)
        n, k, layout = choose.choice([(5, 6, "row"), (18, 32, "row4"), (1, 8, "row")])
        rows = choose.choice([1, choices])
        x = choose.like(tensor((tokens, rows, k), choose.choice([DType.F32, DType.BF16])))
        experts = choose.input(tensor((tokens, choices), DType.I32), -1, count)
        dtype = DType.I8 if layout == "row4" else choose.choice(sorted(BYTES, reverse=True))
        q = choose.input(tensor(packed_shape(count * n, k, layout), dtype), -127, 127)
        sides = generate_sides(choose, (count * n, choose.choice([1, 2])))
        return [x, experts, q, *sides], {"n": n, "layout": layout}


expert_linear, quantized_expert_linear = ExpertLinear(), QuantizedExpertLinear()
