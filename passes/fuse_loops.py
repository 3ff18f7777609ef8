"""Fusion of core ops: every op that must be stored becomes the root of a loop nest, its producers are inlined.

A producer is inlined if nobody outside of the group reads it, if it can be computed for one index alone, and if that
does not repeat costly work. Constants are cloned into every group that reads them. A reshape between groups stays
outside: it is a view.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function, path_of
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import (
    Binary,
    Unary,
    bitcast,
    cast,
    cos,
    div,
    erf,
    exp,
    log,
    logistic,
    power,
    select,
    sin,
    tanh,
)
from warploom.ir.ops.parameters import param
from warploom.ir.ops.reduce import dot_general, sort, top_k
from warploom.ir.ops.shape import broadcast, concat, constant, full, gather, iota, pad, reshape, slice_axis, transpose
from warploom.ir.rewrite import defining_op, entries, is_op, users
from warploom.passes.decisions import record, recorded
from warploom.passes.outline import Outliner, in_block_order

KIND = "loops"
CONSTANTS = (full, iota, constant)
INDEXED = (reshape, transpose, broadcast, slice_axis, concat, pad, gather)
COSTLY = (exp, log, tanh, erf, logistic, sin, cos, power, div)
REREADING = (dot_general, sort, top_k)
MAX_OPS = 48  # keeps the code of one kernel small


def fuse_loops(module: mlir.Module) -> None:
    """Outline every remaining core op of the entries."""
    outliner = Outliner(module)
    for function in entries(module):
        log = recorded(function)
        while (root := _last_root(function)) is not None:
            ops, refusals = _group(root)
            name = op_of(root)
            assert name is not None
            group = outliner.build(function, ops, KIND, name.name)
            log += [f"{path_of(root)}: {name.name}: {r}" for r in refusals]
            log.append(f"{path_of(root)}: {name.name}: fused {len(ops)} ops as @{group.name}")
            outliner.replace(ops, root, group)
        record(function, log)


def is_elementwise(operation: mlir.Operation) -> bool:
    """Whether an element of the result depends on the operands' elements at the same index only."""
    return isinstance(op_of(operation), Unary | Binary) or is_op(operation, cast, bitcast, select)


def _last_root(function: Function) -> mlir.Operation | None:
    """The last op that is neither a parameter, a view, nor a constant that others will clone."""
    for operation in reversed(function.ops):
        op = op_of(operation)
        if op is None or op is param or op is reshape:
            continue
        if is_op(operation, *CONSTANTS) and not _must_store(operation):
            operation.erase()
            continue
        return operation
    return None


def _must_store(operation: mlir.Operation) -> bool:
    """A constant that a call, a view or the return reads."""
    return any(True for _ in operation.results[0].uses)


def _group(root: mlir.Operation) -> tuple[list[mlir.Operation], list[str]]:
    """The root with its inlined producers, in order, and the reasons for those left outside."""
    group, refusals = [root], []
    work = [root]
    while work:
        consumer = work.pop()
        for operand in consumer.operands:
            source = defining_op(operand)
            if source is None or op_of(source) is None or is_op(source, param) or source in group:
                continue
            reason = _refusal(source, consumer, group)
            if reason is None:
                taken = _own_copy(source, consumer) if is_op(source, *CONSTANTS) else source
                group.append(taken)
                work.append(taken)
            else:
                refusals.append(f"{source.name} stays outside: {reason}")
    return in_block_order(group), refusals


def _refusal(source: mlir.Operation, consumer: mlir.Operation, group: list[mlir.Operation]) -> str | None:
    """Why a producer is not inlined, or None."""
    if is_op(source, *CONSTANTS):
        return None
    if len(group) >= MAX_OPS:
        return "the group is large enough"
    if not is_elementwise(source) and not is_op(source, *INDEXED):
        return "it cannot be computed for one index alone"
    readers = users(source.results[0])
    if any(r not in group for r in readers):
        return "others read its result"
    if len(readers) > 1 and not all(is_elementwise(r) for r in readers):
        return "its result is read at several indices"
    if is_op(group[0], *REREADING) and not is_op(source, *INDEXED, cast):
        return "the root reads each element several times"
    if is_op(consumer, broadcast, gather) and is_op(source, *COSTLY):
        return "it would be computed again for every copy"
    return None


def _own_copy(source: mlir.Operation, consumer: mlir.Operation) -> mlir.Operation:
    """A clone of a constant right before its consumer, so that groups share none."""
    clone = source.clone(ip=mlir.InsertionPoint(consumer)).operation
    for i, operand in enumerate(consumer.operands):
        if operand == source.results[0]:
            consumer.operands[i] = clone.results[0]
    return clone
