"""What a lowered program may not do: it would be right, but a surprise."""

from __future__ import annotations

from itertools import product

import mlir.ir as mlir

from warploom.errors import CompileError
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
