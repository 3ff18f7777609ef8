"""The running sum of a narrow model stays in f32 where activations are bf16.

Every layer adds to the residual stream; rounding it to bf16 each time makes more than half of the error of bf16
activations (SmolLM2-135M: 0.12 of root mean square error in logits, 0.07 without). Kernels hold sums in f32 registers
anyway, so what it costs is memory traffic of activations: nothing beside the weights when decoding. Prompts pay for it
by their width, and wide models need it less, so those with more than WIDEST columns keep the rounding that they were
trained with.

    s = cast(e, bf16)            s = e
    t = add(s, linear(x, w))     t = add(s, linear(cast(x, f32), w))
    y = rms_norm(t, gain)        y = cast(rms_norm(t, gain), bf16)
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.elementwise import add, as_dtype, cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.routing import combine_experts
from warploom.ir.ops.shape import gather
from warploom.ir.rewrite import before, entries, is_op, producer, users
from warploom.ir.types import DType, TensorType, type_of

WIDEST = 2048


def keep_sums_wide(module: mlir.Module) -> None:
    """Carry every running sum of bf16 rows in f32."""
    for function in entries(module):
        wide: dict[mlir.Value, mlir.Value] = {}
        for operation in function.ops:
            if is_op(operation, cast) and _begins_sum(operation):
                wide[operation.results[0]] = operation.operands[0]
            elif is_op(operation, add) and any(value in wide for value in operation.operands):
                with before(operation):
                    wide[operation.results[0]] = add(*(_widened(value, wide) for value in operation.operands))
            elif is_op(operation, gather) and operation.operands[0] in wide:
                rows, ids = operation.operands
                with before(operation):
                    wide[operation.results[0]] = gather(wide[rows], ids)
        for narrow, sum_ in wide.items():
            for reader in users(narrow):
                _read_wide(reader, narrow, sum_)


def _begins_sum(operation: mlir.Operation) -> bool:
    """Whether it rounds rows, of a narrow model, that are normed and added to: what flows into the first layer."""
    (result,) = operation.results
    rounds = type_of(operation.operands[0]).dtype is DType.F32 and _is_narrow_row(type_of(result))
    readers = users(result)
    return rounds and all(any(is_op(reader, op) for reader in readers) for op in (rms_norm, add))


def _is_narrow_row(type_: TensorType) -> bool:
    width = type_.shape[-1] if type_.rank == 2 else None
    return type_.dtype is DType.BF16 and isinstance(width, int) and width <= WIDEST


def _widened(value: mlir.Value, wide: dict[mlir.Value, mlir.Value]) -> mlir.Value:
    """What is added, in f32; a product, or the sum of what experts made, before it is rounded."""
    if value in wide:
        return wide[value]
    product = producer(value, linear, combine_experts)
    if product is None or len(users(value)) > 1:
        return as_dtype(value, DType.F32)
    x, other = product.operands
    op = linear if is_op(product, linear) else combine_experts
    result: mlir.Value = op(as_dtype(x, DType.F32), other, **op.attrs_of(product))
    return result


def _read_wide(reader: mlir.Operation, narrow: mlir.Value, sum_: mlir.Value) -> None:
    """Let one reader of a narrow sum read the wide one, rounded after a norm, else before."""
    with before(reader):
        if is_op(reader, rms_norm):
            normed = rms_norm(sum_, reader.operands[1], **rms_norm.attrs_of(reader))
            reader.results[0].replace_all_uses_with(as_dtype(normed, DType.BF16))
        elif not is_op(reader, add, gather):
            rounded = as_dtype(sum_, DType.BF16)
            for index, value in enumerate(reader.operands):
                if value == narrow:
                    reader.operands[index] = rounded
