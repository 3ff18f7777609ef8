"""Products by head of latent attention: their weights in int8 with a scale a row, where a target has kernels of it.

They are small beside the others: of DeepSeek-V2-Lite 113 MB in bf16 of the 2.5 GB that a token reads in int8. The cost
model of a device says what half of them is worth. Whatever the scheme stores others in, these are int8, whose error is
an eighth of FP8's; a checkpoint's own numbers are not rounded again.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import path_of
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.quantize import quantize
from warploom.ir.rewrite import before, entries, is_op, is_weight, replace
from warploom.ir.target import Target
from warploom.ir.types import DType, type_of
from warploom.passes.cost import Device, Work, find_device, saved_us
from warploom.passes.decisions import record, recorded
from warploom.passes.profit import TOKENS, Gain
from warploom.passes.quantization import checkpoint
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_weights import module_paths


def quantize_heads(module: mlir.Module, rules: Rules, target: Target) -> None:
    """Rewrite every product by head whose scheme makes numbers of few bits, if that pays; others are left."""
    device = find_device(target.name)
    for function in entries(module):
        log = recorded(function)
        for operation in function.ops:
            if not is_op(operation, head_linear) or not _wants_numbers(operation, rules):
                continue
            found = None if device is None else _gain(operation, device)
            reason = _refusal(target, found)
            log.append(f"{path_of(operation)}: head_linear: {reason or f'int8{_noted(found)}'}")
            if reason is None:
                _store(operation)
        record(function, log)


def _wants_numbers(operation: mlir.Operation, rules: Rules) -> bool:
    weight = operation.operands[1]
    if not is_weight(weight) or not type_of(weight).dtype.is_float:
        return False
    chosen = rules.scheme_of(module_paths(operation))
    return chosen is not None and chosen.quantizes and chosen.name != checkpoint.SCHEME.name


def _refusal(target: Target, found: Gain | None) -> str | None:
    """Why the weight stays bf16, or None."""
    if not target.scaled_heads:
        return f"bf16, {target.name} has no kernel of int8{_noted(found)}"
    return None if found is None or found.refusal is None else f"bf16, int8 {found.loss}"


def _noted(found: Gain | None) -> str:
    return "" if found is None else f" ({found})"


def _gain(operation: mlir.Operation, device: Device) -> Gain:
    """What reading a byte instead of two saves."""
    rows, columns = type_of(operation.operands[1]).resolve({})
    saved = {}
    for tokens in TOKENS:
        flops = 2 * rows * columns * tokens
        narrow, wide = (Work("head_linear", moved, flops) for moved in (rows * (columns + 4), 2 * rows * columns))
        saved[tokens] = saved_us([wide], narrow, device)
    return Gain(saved)


def _store(operation: mlir.Operation) -> None:
    x, weight = operation.operands
    with before(operation):
        q, scale = quantize(weight, dtype=DType.I8.value, group=0, scale_dtype=DType.F32.value)
        replace(operation, [head_linear(x, q, scale, **head_linear.attrs_of(operation))])
