"""Quantize what quantized weights are multiplied with, where the format or the target multiplies numbers of few bits.

FP8 weights always meet FP8 activations with one scale per token; integer weights meet what the target asks for.
Every linear gets a `quantize` of its own, which its kernel then does on the fly.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.linear import linear
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.rewrite import before, entries, is_op, replace
from warploom.ir.target import Numbers, Target
from warploom.ir.types import DType, type_of

FP8 = Numbers(DType.F8, 0)


def quantize_activations(module: mlir.Module, target: Target) -> None:
    """Rewrite every `quantized_linear` that is to read quantized activations."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, quantized_linear):
                is_fp8 = type_of(operation.operands[1]).dtype is DType.F8
                numbers = FP8 if is_fp8 else target.activations(operation)
                if numbers is not None:
                    _rewrite(operation, numbers)


def _rewrite(operation: mlir.Operation, numbers: Numbers) -> None:
    x, *weight = operation.operands
    attrs = linear.attrs_of(operation)
    with before(operation):
        q, scale = quantize(x, dtype=numbers.dtype.value, group=numbers.group, scale_dtype="f32")
        dtype = type_of(operation.results[0]).dtype.value
        replace(operation, [scaled_linear(q, scale, *weight, **attrs, dtype=dtype)])
