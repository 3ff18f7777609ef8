"""Quantize what quantized weights are multiplied with, where the format or the target multiplies numbers of few bits.

FP8 weights with a scale per row meet FP8 activations, with the scale that the checkpoint has for them or one per token;
those with scales of blocks meet activations as they are. Integer weights meet what the target asks for.
Every linear gets a `quantize` of its own, which its kernel then does on the fly.
"""

from __future__ import annotations

from collections.abc import Container

import mlir.ir as mlir

from warploom.ir.function import Function, functions
from warploom.ir.ops.linear import linear
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.ops.reduce import reduce_max
from warploom.ir.ops.shape import broadcast, concat, reshape
from warploom.ir.rewrite import before, entries, is_op, parameters_of, replace
from warploom.ir.target import Numbers, Target
from warploom.ir.types import DType, type_of
from warploom.ir.verify import PREPARE

FP8 = Numbers(DType.F8, 0)


def quantize_activations(module: mlir.Module, target: Target, scales: Container[str] = ()) -> None:
    """Rewrite every `quantized_linear` that is to read quantized activations.

    `scales`: names of tensors of the checkpoint; `<module>.input_scale` f32 [1] is that of the input of a module whose
    weight is kept in the checkpoint's own FP8. Linears that were merged share the largest of theirs.
    """
    prepare = functions(module).get(PREPARE)
    for function in entries(module):
        for operation in function.ops:
            if not is_op(operation, quantized_linear):
                continue
            if type_of(operation.operands[1]).dtype is not DType.F8:
                numbers = target.activations(operation)
                if numbers is not None:
                    _rewrite(operation, numbers)
            elif type_of(operation.operands[2]).shape[1] != 1:
                continue  # scales of blocks: kernels read such weights as floats
            elif prepare is not None and (names := _static_scales(operation, scales)):
                _rewrite_static(operation, names, prepare, target)
            else:
                _rewrite(operation, FP8)


def _static_scales(operation: mlir.Operation, scales: Container[str]) -> list[str]:
    """Names of the scales of the input, if all weights of a linear have one."""
    names = [f"{name.removesuffix('.weight.q')}.input_scale" for name in parameters_of(operation.operands[1])]
    return names if all(name in scales for name in names) else []


def _rewrite(operation: mlir.Operation, numbers: Numbers) -> None:
    x, *weight = operation.operands
    with before(operation):
        q, scale = quantize(x, dtype=numbers.dtype.value, group=numbers.group, scale_dtype="f32")
        _multiply(operation, q, scale, weight)


def _rewrite_static(operation: mlir.Operation, names: list[str], prepare: Function, target: Target) -> None:
    x, *weight = operation.operands
    with before(prepare.terminator):
        for name in names:
            export(checkpoint(name=name, shape=(1,), dtype="f32"), name=name)
    with before(operation):
        known = [param(name=name, shape=(1,), dtype="f32") for name in names]
        scale = known[0] if len(known) == 1 else reshape(reduce_max(concat(*known, axis=0), axis=0), shape=(1,))
        q = quantize_static(x, scale, dtype="f8e4m3")
        if target.scale_each_row:
            scale = broadcast(reshape(scale, shape=()), shape=(*type_of(x).shape[:-1], 1), dims=())
        _multiply(operation, q, scale, weight)


def _multiply(operation: mlir.Operation, q: mlir.Value, scale: mlir.Value, weight: list[mlir.Value]) -> None:
    dtype = type_of(operation.results[0]).dtype.value
    replace(operation, [scaled_linear(q, scale, *weight, **linear.attrs_of(operation), dtype=dtype)])
