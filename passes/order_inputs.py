"""Activations in the order of a weight's columns, where a checkpoint holds these sorted (GPTQ's `desc_act`).

    linear(x, place_columns(V, order)) = linear(take_columns(x, order), V)

so V, whose groups of columns are neighbours, can stay quantized. What makes x is then asked to make it in that order:
elementwise ops of linears, as down(swiglu(gate(x), up(x))), by the rows of their weights, which `@prepare` orders once;
a norm by its gain, so that kernels can still norm, and widen, what they read. What is left is gathered in the step: the
running sum, which other weights read in other orders, and heads of attention, each of which is one sum over keys. All
of it is in the decisions. Linears that read one value in one order read one gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import mlir.ir as mlir

from warploom.ir.function import Function, path_of
from warploom.ir.ops.columns import place_columns, take_columns
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import layer_norm, rms_norm
from warploom.ir.ops.shape import broadcast, full, gather, slice_axis
from warploom.ir.patterns import is_elementwise
from warploom.ir.rewrite import before, copy_op, defining_op, entries, is_op, is_weight, producer, replace, users
from warploom.ir.types import type_of
from warploom.passes.decisions import record, recorded
from warploom.passes.quantization import checkpoint
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_weights import module_paths

NORMS = (rms_norm, layer_norm)


def order_inputs(module: mlir.Module, rules: Rules) -> None:
    """Move the order of every weight that is kept to what is multiplied with it, and from there as far as it goes.

    What nobody reads afterwards is left to `dce`.
    """
    for function in entries(module):
        log = recorded(function)
        for take in list(_moved(function, rules)):
            log.append(f"{path_of(take)}: take_columns: {_absorbed(take)}")
        record(function, log)


def _moved(function: Function, rules: Rules) -> Iterator[mlir.Operation]:
    """Move orders from weights to activations; the ops that now order these."""
    made: dict[tuple[mlir.Value, mlir.Value], mlir.Value] = {}
    for operation in function.ops:
        placed = producer(operation.operands[1], place_columns) if is_op(operation, linear) else None
        if placed is None or _refuses_rows(operation) is not None or not _is_kept(operation, rules):
            continue
        x, (values, order) = operation.operands[0], placed.operands
        if (x, order) not in made:
            with before(operation):
                made[x, order] = take_columns(x, order)
            yield made[x, order].owner.operation
        operation.operands[0], operation.operands[1] = made[x, order], values


def _absorbed(take: mlir.Operation) -> str:
    """Move an order into what makes the value, as far as it goes; what became of it."""
    order, where = take.operands[1], "gathered in every step"
    if passed := _passed(take):
        where += ", before the norm" if is_op(passed[0], *NORMS) else ""
        take = _before(take, passed)
    reason = _refusal(take.operands[0], take)
    if reason is not None:
        return f"{where}: {reason}"
    _split(take.operands[0])
    with before(take):
        replace(take, [_ordered(take.operands[0], order)])
    return "folded into the rows of the weights before it"


def _passed(take: mlir.Operation) -> list[mlir.Operation]:
    """What makes the value alone and is better done to ordered columns: a norm, rounded or not, or a widening cast."""
    casting = producer(take.operands[0], cast)
    norm = producer(take.operands[0] if casting is None else casting.operands[0], *NORMS)
    ops = [operation for operation in (norm, casting) if operation is not None]
    readers = [users(operation.results[0]) for operation in ops]
    if readers != [[reader] for reader in [*ops[1:], take][: len(ops)]]:
        return []
    if norm is not None:
        return ops if all(map(is_weight, list(norm.operands)[1:])) else []
    return ops if all(_bytes(op.operands[0]) < _bytes(op.results[0]) for op in ops) else []


def _bytes(value: mlir.Value) -> int:
    return type_of(value).dtype.numpy.itemsize


def _before(take: mlir.Operation, ops: list[mlir.Operation]) -> mlir.Operation:
    """The same ops of ordered columns in place of the ordered columns of their result; the op that now orders."""
    (x, *sides), order = ops[0].operands, take.operands[1]
    with before(take):
        ordered = take_columns(x, order)
        mapping = {x: ordered} | {side: gather(side, order) for side in sides}
        for operation in ops:
            copy_op(operation, mapping)
    replace(take, [mapping[ops[-1].results[0]]])
    for operation in reversed(ops):
        operation.erase()
    result: mlir.Operation = ordered.owner.operation
    return result


def _is_kept(operation: mlir.Operation, rules: Rules) -> bool:
    """Whether a weight keeps the numbers of the checkpoint; others are stored anew, with columns where they belong."""
    scheme = rules.scheme_of(module_paths(operation))
    return scheme is not None and scheme.name == checkpoint.SCHEME.name


def _refusal(value: mlir.Value, reader: mlir.Operation) -> str | None:
    """Why a value that one op reads cannot be made in another order of its columns, or None."""
    source = defining_op(value)
    if source is None:
        return "it is an input"
    if any(user != reader for user in users(value)):
        return f"others read the result of {source.name} too"
    if is_elementwise(source):
        return next((r for o in source.operands if (r := _refusal(o, source)) is not None), None)
    if is_op(source, full, linear) or _bias(source) is not None:
        return _refuses_rows(source) if is_op(source, linear) else None
    product = _split_product(source)
    return f"{source.name} makes columns that belong together" if product is None else _refuses_rows(product)


def _refuses_rows(product: mlir.Operation) -> str | None:
    """Why the rows of a linear's weight cannot be ordered, or None."""
    if linear.attrs_of(product)["layout"] != "row":
        return "the weight before it is packed already"
    return None if is_weight(product.operands[1]) else "the weight before it is computed at run time"


def _split_product(source: mlir.Operation) -> mlir.Operation | None:
    """The linear a range of whose columns an op gives, if nobody reads it but such ops."""
    product = producer(source.operands[0], linear) if is_op(source, slice_axis) else None
    if product is None:
        return None
    last = type_of(product.results[0]).rank - 1
    readers = users(product.results[0])
    split = all(is_op(reader, slice_axis) and slice_axis.attrs_of(reader)["axis"] == last for reader in readers)
    return product if split else None


def _bias(source: mlir.Operation) -> mlir.Value | None:
    """What a broadcast repeats along rows, if it is one number for every column."""
    if not is_op(source, broadcast) or not is_weight(source.operands[0]):
        return None
    type_ = type_of(source.results[0])
    one_each = type_of(source.operands[0]).shape == type_.shape[-1:]
    return source.operands[0] if one_each and broadcast.attrs_of(source)["dims"] == (type_.rank - 1,) else None


def _split(value: mlir.Value) -> None:
    """Make ranges of columns of one linear, where a value is made of such, linears of their own."""
    source = defining_op(value)
    assert source is not None
    if is_elementwise(source):
        for i in range(len(source.operands)):
            _split(source.operands[i])
    elif (product := _split_product(source)) is not None:
        for reader in users(product.results[0]):
            attrs = slice_axis.attrs_of(reader)
            with before(reader):
                replace(reader, [_with_rows(product, partial(slice_axis, **attrs | {"axis": 0}))])


def _ordered(value: mlir.Value, order: mlir.Value) -> mlir.Value:
    """The value made with its columns in an order, at the current insertion point."""
    source = defining_op(value)
    assert source is not None
    if is_op(source, full):
        return value
    with source.location:
        if is_elementwise(source):
            mapping = {operand: _ordered(operand, order) for operand in dict.fromkeys(source.operands)}
            copy_op(source, mapping)
            return mapping[value]
        if (bias := _bias(source)) is not None:
            result: mlir.Value = broadcast(gather(bias, order), **broadcast.attrs_of(source))
            return result
        return _with_rows(source, lambda part: gather(part, order))


def _with_rows(product: mlir.Operation, choose: Callable[[mlir.Value], mlir.Value]) -> mlir.Value:
    """A linear with some rows of the weight of another; those of a quantized weight are chosen part by part."""
    x, weight = product.operands
    numbers = producer(weight, dequantize)
    rows = choose(weight) if numbers is None else dequantize(*map(choose, numbers.operands))
    result: mlir.Value = linear(x, rows, n=type_of(rows).resolve({})[0], layout="row")
    return result
