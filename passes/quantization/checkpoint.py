"""Weights as the checkpoint holds them: quantized ones in their own format, all others in bf16."""

from __future__ import annotations

from collections.abc import Sequence

import mlir.ir as mlir

from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.ops.mxfp4 import dequantize_mxfp4
from warploom.ir.rewrite import producer
from warploom.ir.types import DType
from warploom.passes.quantization.scheme import Matrices, Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """What is dequantized stays quantized."""
    return Scheme(name, _store, experts=_experts)


def _store(weight: mlir.Value) -> Matrices:
    numbers = producer(weight, dequantize)
    return (as_dtype(weight, DType.BF16),) if numbers is None else tuple(numbers.operands)


def _experts(weight: mlir.Value) -> Matrices:
    numbers = producer(weight, dequantize, dequantize_mxfp4)
    return (as_dtype(weight, DType.BF16),) if numbers is None else tuple(numbers.operands)


SCHEME = SchemeFamily("checkpoint", "weights as the checkpoint holds them", {}, make)
