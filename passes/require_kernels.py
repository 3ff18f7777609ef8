"""Refuse quantized weights and FP8 caches that no kernel of the target reads: in core ops they would be very slow."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.function import Function, in_all_layers, path_of
from warploom.ir.ops.experts import quantized_expert_linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES
from warploom.ir.rewrite import entries, is_op
from warploom.ir.target import Target
from warploom.ir.types import DType, type_of
from warploom.passes.decisions import recorded

QUANTIZED = (quantized_linear, scaled_linear, quantized_embed, quantized_expert_linear, mxfp4_expert_linear)


def require_kernels(module: mlir.Module, target: Target) -> None:
    """Check what `fuse_heroes` has left.

    Raises:
        CompileError: naming the module, and why the target's kernels do not take it.
    """
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, *QUANTIZED):
                path = path_of(operation)
                raise CompileError(
                    f"{target.name} has no kernel for the quantized weight of {path}",
                    expected="a scheme and a shape that its kernels read",
                    found=_reason(function, path) or operation.name,
                    fix="choose another scheme or target; for these alone: "
                    f'quantization={{"{in_all_layers(path)}": "bf16", "*": ...}}',
                )
            if is_op(operation, *WRITES, *ATTENTIONS) and _has_f8(operation):
                path = path_of(operation)
                raise CompileError(
                    f"{target.name} has no kernel for the keys and values of {path} in an FP8 cache",
                    expected="heads of a size that its kernels take",
                    found=_reason(function, path) or operation.name,
                    fix="compile with another kv_cache, or for another target",
                )


def _has_f8(operation: mlir.Operation) -> bool:
    return any(type_of(operand).dtype is DType.F8 for operand in operation.operands)


def _reason(function: Function, path: str) -> str:
    """The last thing that was said of a module."""
    said = [line for line in recorded(function) if line.startswith(f"{path}:") and "no kernel" in line]
    return said[-1].removeprefix(f"{path}: ") if said else ""
