"""Algebraic simplification with rules that keep every bit of the result (up to the sign of zero)."""

from __future__ import annotations

from collections.abc import Callable

import mlir.ir as mlir
import numpy as np

from warploom.ir.op import Op, op_of
from warploom.ir.ops.elementwise import add, cast, div, mul, neg, sub
from warploom.ir.ops.shape import broadcast, concat, full, pad, reshape, slice_axis, transpose
from warploom.ir.rewrite import before, entries, producer, replace, rewrite_each
from warploom.ir.types import type_of

Rule = Callable[[mlir.Operation], mlir.Value | None]


def simplify(module: mlir.Module) -> None:
    """Apply the rules below until none fits."""
    rewrite_each(entries(module), _apply)


def _apply(operation: mlir.Operation) -> bool:
    op = op_of(operation)
    for rule in RULES.get(op, ()) if op is not None else ():
        value = rule(operation)
        if value is not None:
            replace(operation, [value])
            return True
    return False


def _identity(operation: mlir.Operation) -> mlir.Value | None:
    """A reshape, broadcast, slice, cast or pad to the type it has already."""
    (x,) = operation.operands
    return x if type_of(x) == type_of(operation.results[0]) else None


def _identity_transpose(operation: mlir.Operation) -> mlir.Value | None:
    permutation = transpose.attrs_of(operation)["permutation"]
    return operation.operands[0] if list(permutation) == sorted(permutation) else None


def _transpose_of_transpose(operation: mlir.Operation) -> mlir.Value | None:
    inner = producer(operation.operands[0], transpose)
    if inner is None:
        return None
    first, second = (transpose.attrs_of(op)["permutation"] for op in (inner, operation))
    with before(operation):
        result: mlir.Value = transpose(inner.operands[0], permutation=tuple(first[i] for i in second))
    return result


def _reshape_of_reshape(operation: mlir.Operation) -> mlir.Value | None:
    inner = producer(operation.operands[0], reshape)
    if inner is None:
        return None
    with before(operation):
        result: mlir.Value = reshape(inner.operands[0], shape=type_of(operation.results[0]).shape)
    return result


def _slice_of_slice(operation: mlir.Operation) -> mlir.Value | None:
    inner = producer(operation.operands[0], slice_axis)
    if inner is None:
        return None
    outer_attrs, inner_attrs = slice_axis.attrs_of(operation), slice_axis.attrs_of(inner)
    if outer_attrs["axis"] != inner_attrs["axis"]:
        return None
    start = inner_attrs["start"] + outer_attrs["start"]
    stop = inner_attrs["start"] + outer_attrs["stop"]
    with before(operation):
        result: mlir.Value = slice_axis(inner.operands[0], axis=outer_attrs["axis"], start=start, stop=stop)
    return result


def _slice_of_concat(operation: mlir.Operation) -> mlir.Value | None:
    """A slice that is exactly one of the concatenated values."""
    joined = producer(operation.operands[0], concat)
    attrs = slice_axis.attrs_of(operation)
    if joined is None or concat.attrs_of(joined)["axis"] != attrs["axis"]:
        return None
    offset = 0
    for part in joined.operands:
        size = type_of(part).shape[attrs["axis"]]
        if not isinstance(size, int):
            return None
        if (offset, offset + size) == (attrs["start"], attrs["stop"]):
            return part
        offset += size
    return None


def _double_negation(operation: mlir.Operation) -> mlir.Value | None:
    inner = producer(operation.operands[0], neg)
    return None if inner is None else inner.operands[0]


def _neutral(value: float, sides: tuple[int, ...]) -> Rule:
    """x op value is x, where the constant may stand on the given sides."""

    def rule(operation: mlir.Operation) -> mlir.Value | None:
        for side in sides:
            constant = producer(operation.operands[side], full)
            if constant is not None and full.attrs_of(constant)["value"] == value:
                return operation.operands[1 - side]
        return None

    return rule


def _fold_shape_of_full(operation: mlir.Operation) -> mlir.Value | None:
    """A reshape, transpose, slice or broadcast of a full value is full."""
    constant = producer(operation.operands[0], full)
    if constant is None:
        return None
    attrs, type_ = full.attrs_of(constant), type_of(operation.results[0])
    with before(operation):
        result: mlir.Value = full(shape=type_.shape, value=attrs["value"], dtype=type_.dtype.value)
    return result


def _fold_cast_of_full(operation: mlir.Operation) -> mlir.Value | None:
    constant = producer(operation.operands[0], full)
    if constant is None:
        return None
    source, target = type_of(constant.results[0]).dtype.numpy, type_of(operation.results[0]).dtype.numpy
    value = np.asarray(full.attrs_of(constant)["value"]).astype(source).astype(target).astype(np.float64)
    type_ = type_of(operation.results[0])
    with before(operation):
        result: mlir.Value = full(shape=type_.shape, value=float(value), dtype=type_.dtype.value)
    return result


RULES: dict[Op, tuple[Rule, ...]] = {
    reshape: (_identity, _reshape_of_reshape, _fold_shape_of_full),
    transpose: (_identity_transpose, _transpose_of_transpose, _fold_shape_of_full),
    broadcast: (_identity, _fold_shape_of_full),
    slice_axis: (_identity, _slice_of_slice, _slice_of_concat, _fold_shape_of_full),
    cast: (_identity, _fold_cast_of_full),
    pad: (_identity,),
    neg: (_double_negation,),
    add: (_neutral(0.0, (0, 1)),),
    sub: (_neutral(0.0, (1,)),),
    mul: (_neutral(1.0, (0, 1)),),
    div: (_neutral(1.0, (1,)),),
}
