"""What a lowered program may not do, which would be right, but a surprise; and what packed weights may not hold."""

from __future__ import annotations

from itertools import product

import mlir.ir as mlir
import numpy as np

from warploom.errors import CheckpointError, CompileError
from warploom.frontend.tensors import is_finite
from warploom.ir.function import path_of
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.scaled_cache import WRITES
from warploom.ir.rewrite import entries
from warploom.passes.decisions import recorded
from warploom.passes.donate import REFUSED


def refuse_surprises(module: mlir.Module, target: str) -> None:
    """Raise a CompileError if a step would copy its KV cache, or do the work of experts without a kernel."""
    _check_in_place(module)
    _check_experts(module, target)


def _check_in_place(module: mlir.Module) -> None:
    """A step that copies its cache would be a surprise."""
    for function in entries(module):
        for operation in function.ops:
            if REFUSED in operation.attributes:
                reason = operation.attributes[REFUSED].value
                raise CompileError(f"{path_of(operation)}: the KV cache would be copied", found=reason)
        for write, line in product(WRITES, recorded(function)):
            path, _, reason = line.partition(f": {write.name}: no kernel for 1 ops: ")
            if reason:
                raise CompileError(
                    f"no kernel writes the keys and values of {path} into the KV cache",
                    expected="heads of a size that the target's kernels take",
                    found=reason,
                    fix="compile for another target, or use another model",
                )


def _check_experts(module: mlir.Module, target: str) -> None:
    """In core ops every token would copy the matrices of its experts: right, but far too slow."""
    for function in entries(module):
        for line in recorded(function):
            path, _, reason = line.partition(f": {expert_linear.name}: no kernel for 1 ops: ")
            if reason:
                raise CompileError(
                    f"{target} has no kernel for the experts of {path}",
                    expected="a target and sizes that its kernels of mixtures of experts take",
                    found=reason,
                    fix="compile for a target that has one (`cpu`, f32 activations), or use a dense model",
                )


def refuse_overflow(name: str, array: np.ndarray, quantization: str) -> None:
    """Raise a CheckpointError if the packed parameter `name` is not finite: scales of f16 end at 65504."""
    if is_finite(array):
        return
    raise CheckpointError(
        f"{name.partition(':')[0]} holds numbers that are too large for {quantization}",
        expected=f"finite {array.dtype} in {name}",
        found=f"{np.count_nonzero(~np.isfinite(array))} of {array.size} are not",
        fix=f"keep it as it is: 'PATTERN=bf16,*={quantization}', with a pattern that fits its module",
    )
