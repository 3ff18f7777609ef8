"""Horizontal fusion: linears that read the same activations become one, over their weights side by side.

q, k and v, or gate and up, then stream their weights in one launch. The concatenation is of weights only (and of their
scales and offsets, where they are quantized in one format, and of biases, where all have one), so `hoist_weights` moves
it to `@prepare`.
"""

from __future__ import annotations

from collections import defaultdict

import mlir.ir as mlir

from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.linear import linear
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.ops.shape import broadcast, concat, slice_axis
from warploom.ir.patterns import Bias, bias_of, weight_operands
from warploom.ir.rewrite import before, entries, is_op, is_weight, replace
from warploom.ir.types import type_of

Format = tuple[tuple[str, object], ...]  # dtype and columns of each matrix


def merge_linears(module: mlir.Module) -> None:
    """Merge every set of compatible linears of an entry."""
    for function in entries(module):
        siblings: dict[tuple[mlir.Value, Format], list[mlir.Operation]] = defaultdict(list)
        for operation in function.ops:
            if is_op(operation, linear, quantized_linear) and refusal(operation) is None:
                siblings[operation.operands[0], _format(operation)].append(operation)
        for group in siblings.values():
            if len(group) > 1:
                _merge(group)


def refusal(operation: mlir.Operation) -> str | None:
    """Why a linear cannot be merged, or None."""
    if linear.attrs_of(operation)["layout"] != "row":
        return "its weight is packed already"
    if not all(map(is_weight, weight_operands(operation))):
        return "its weight is computed at run time"
    return None


def _format(operation: mlir.Operation) -> Format:
    types = [type_of(weight) for weight in weight_operands(operation)]
    return tuple((t.dtype.value, t.shape[1]) for t in types)


def _merge(group: list[mlir.Operation]) -> None:
    """Replace the group, with its biases, at the place of its first member, by one linear and slices of its result."""
    first, spec = group[0], op_of(group[0])
    assert spec is not None
    biases = _biases(group)
    for operation in group[1:]:
        for weight in weight_operands(operation):
            _hoist_operand(weight, first)
    for bias in biases:
        _hoist_operand(bias.bias, first)
    sizes = [linear.attrs_of(op)["n"] for op in group]
    with before(first):
        weights = [concat(*same, axis=0) for same in zip(*map(weight_operands, group), strict=True)]
        merged = spec(first.operands[0], *weights, n=sum(sizes), layout="row")
        axis, start, parts = type_of(merged).rank - 1, 0, []
        if biases:
            both = concat(*(bias.bias for bias in biases), axis=0)
            merged = add(merged, broadcast(both, shape=type_of(merged).shape, dims=(axis,)))
        for size in sizes:
            parts.append(slice_axis(merged, axis=axis, start=start, stop=start + size))
            start += size
    for operation, part in zip([bias.ops[1] for bias in biases] or group, parts, strict=True):
        replace(operation, [part])
    if biases:
        for operation in group:
            operation.erase()


def _biases(group: list[mlir.Operation]) -> list[Bias]:
    """The biases of all, no work at run time, and of the dtype of what all read; none if some have none."""
    found = [bias for op in group if (bias := bias_of(op)) is not None and is_weight(bias.bias)]
    return found if len(found) == len(group) else []


def _hoist_operand(value: mlir.Value, anchor: mlir.Operation) -> None:
    """Move the (weight-only) computation of a value above the anchor."""
    operation = value.owner.operation
    if anchor.is_before_in_block(operation):
        for operand in operation.operands:
            _hoist_operand(operand, anchor)
        operation.move_before(anchor)
