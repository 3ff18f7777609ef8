"""Caches whose numbers stand on static scales: those that a checkpoint has for its keys and values, or measured ones.

`scales` [2, kv_heads] are of the keys and the values of each head of a layer: what is stored is x / scale. A cache of
f8 then neither saturates at 448 nor loses small numbers below 2^-6.
"""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.op import Chooser, Op, Operand, op_of
from warploom.ir.ops.attention import Attention, attention
from warploom.ir.ops.elementwise import div, mul
from warploom.ir.ops.kv_write import KvWrite, kv_write
from warploom.ir.ops.shape import broadcast, reshape, slice_axis
from warploom.ir.types import DType, TensorType, tensor, type_of

SCALES = Operand("scales", frozenset({DType.F32}))
SCALED = frozenset({DType.F32, DType.BF16, DType.F8})  # i8 has exponents of its own


def scales_name(layer: int) -> str:
    """Of the tensor that holds the scales of a layer's keys and values."""
    return f"kv_scales.{layer}"


def is_scales(name: str) -> bool:
    """Whether a tensor of this name holds such scales."""
    return name.startswith("kv_scales.")


class ScaledKvWrite(Op):
    """`kv_write` of keys and values divided by the scales [2, kv_heads] of their heads."""

    name = "scaled_kv_write"
    operands = (Operand("kv", SCALED), *KvWrite.operands[1:], SCALES)
    attributes = KvWrite.attributes

    def infer(
        self, kv: TensorType, k: TensorType, v: TensorType, slots: TensorType, scales: TensorType, **attrs: Any
    ) -> TensorType:
        """As `kv_write`."""
        _check_scales(kv, scales)
        return kv_write.infer(kv, k, v, slots, **attrs)

    def evaluate(
        self, kv: np.ndarray, k: np.ndarray, v: np.ndarray, slots: np.ndarray, scales: np.ndarray, **attrs: Any
    ) -> np.ndarray:
        """As `kv_write`."""
        return kv_write.evaluate(kv, k / scales[0][:, None], v / scales[1][:, None], slots, **attrs)

    def decompose(
        self, kv: mlir.Value, k: mlir.Value, v: mlir.Value, slots: mlir.Value, scales: mlir.Value, **attrs: Any
    ) -> mlir.Value:
        """Divisions before it."""
        k, v = (div(x, _over_heads(scales, which, x)) for which, x in enumerate((k, v)))
        result: mlir.Value = kv_write(kv, k, v, slots, **attrs)
        return result

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """As `kv_write`, on scales of about 1."""
        (kv, *others), attrs = kv_write.generate(choose)
        if type_of(kv).dtype not in SCALED:
            kv = choose.like(tensor((*type_of(kv).shape[:4], 16 * _size(others[0])), DType.F32))
        return [kv, *others, choose.input(tensor((2, type_of(kv).shape[3])), 0.5, 2)], attrs


class ScaledAttention(Op):
    """`attention` over a cache that `scaled_kv_write` filled: over its numbers times their scales."""

    name = "scaled_attention"
    operands = (Attention.operands[0], Operand("kv", SCALED), SCALES, *Attention.operands[2:])
    attributes = Attention.attributes

    def infer(self, q: TensorType, kv: TensorType, scales: TensorType, *others: TensorType, **attrs: Any) -> TensorType:
        """As `attention`."""
        if kv.rank == 5:
            _check_scales(kv, scales)
        return attention.infer(q, kv, *others, **attrs)

    def evaluate(
        self, q: np.ndarray, kv: np.ndarray, scales: np.ndarray, *others: np.ndarray, **attrs: Any
    ) -> np.ndarray:
        """As `attention`."""
        keys, values = np.repeat(scales, q.shape[1] // kv.shape[3], 1)[..., None].astype(q.dtype)
        return attention.evaluate(q * keys, kv, *others, **attrs) * values

    def decompose(
        self, q: mlir.Value, kv: mlir.Value, scales: mlir.Value, *others: mlir.Value, **attrs: Any
    ) -> mlir.Value:
        """Products around it."""
        mixed = attention(mul(q, _over_heads(scales, 0, q)), kv, *others, **attrs)
        result: mlir.Value = mul(mixed, _over_heads(scales, 1, mixed))
        return result

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """As `attention`, on scales of about 1."""
        (q, kv, *others), attrs = attention.generate(choose)
        if type_of(kv).dtype not in SCALED:
            kv = choose.input(tensor((*type_of(kv).shape[:4], 16 * _size(q)), DType.F32), -2, 2)
        return [q, kv, choose.input(tensor((2, type_of(kv).shape[3])), 0.5, 2), *others], attrs


def _check_scales(kv: TensorType, scales: TensorType) -> None:
    expected = tensor((2, kv.shape[3]), DType.F32)
    if not scales.matches(expected):
        raise IRError("scales must be of the keys and values of each head", expected=str(expected), found=str(scales))


def _over_heads(scales: mlir.Value, which: int, x: mlir.Value) -> mlir.Value:
    """Scales of keys (0) or values (1) for x [T, heads, head_dim], each kv head's for the heads that share it."""
    tokens, heads, size = type_of(x).shape
    count = type_of(scales).shape[1]
    assert isinstance(heads, int)
    assert isinstance(count, int)
    one = reshape(slice_axis(scales, axis=0, start=which, stop=which + 1), shape=(count,))
    each = broadcast(one, shape=(count, heads // count), dims=(0,))
    result: mlir.Value = broadcast(reshape(each, shape=(heads,)), shape=(tokens, heads, size), dims=(1,))
    return result


def _size(x: mlir.Value) -> int:
    size = type_of(x).shape[2]
    assert isinstance(size, int)
    return size


scaled_kv_write, scaled_attention = ScaledKvWrite(), ScaledAttention()
WRITES, ATTENTIONS = (kv_write, scaled_kv_write), (attention, scaled_attention)


def parts_of(operation: mlir.Operation) -> tuple[list[mlir.Value], list[mlir.Value], list[mlir.Value]]:
    """Of an attention: q, kv, page_table, query_start and context_lens; its scales, if any; its sinks, if any."""
    values = list(operation.operands)
    scales = [values.pop(2)] if op_of(operation) is scaled_attention else []
    return values[:5], scales, values[5:]
