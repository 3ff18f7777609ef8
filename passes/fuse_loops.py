"""Fusion of core ops: every op that must be stored becomes the root of a loop nest, its producers are inlined.

A producer is inlined if nobody outside of the group reads it, if it can be computed for one index alone, and if that
does not repeat costly work. Elementwise ops of one shape that read the same value are roots of one nest, with a result
each, such as the sines and cosines of the same angles (XLA calls this multi-output fusion). Constants are cloned into
every group that reads them. A reshape between groups stays outside: it is a view.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function, path_of
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import (
    cast,
    cos,
    div,
    erf,
    exp,
    log,
    logistic,
    power,
    sin,
    tanh,
)
from warploom.ir.ops.parameters import param
from warploom.ir.ops.reduce import dot_general, sort, top_k
from warploom.ir.ops.shape import broadcast, concat, constant, full, gather, iota, pad, reshape, slice_axis, transpose
from warploom.ir.patterns import is_elementwise
from warploom.ir.rewrite import defining_op, entries, is_op, producer, users
from warploom.ir.types import type_of
from warploom.passes.decisions import record, recorded
from warploom.passes.outline import Outliner, completes_late, in_block_order

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
        behind = 1  # ops from here on are in groups, or need none; the return is the first of them
        while behind < len(function.body.operations):
            operation = function.body.operations[len(function.body.operations) - 1 - behind].operation
            if _is_unread_constant(operation):
                operation.erase()
                continue
            if _is_root(operation):
                log += _outline(function, operation, outliner)
            behind += 1
        record(function, log)


def _outline(function: Function, root: mlir.Operation, outliner: Outliner) -> list[str]:
    """Put a call in place of the group around a root; returns the decisions."""
    group, refusals = _group(root)
    op = op_of(root)
    assert op is not None
    made = outliner.build(function, group, KIND, op.name)
    place = f"{path_of(root)}: {op.name}"
    ops = "1 op" if len(group) == 1 else f"{len(group)} ops"
    results = f" with {len(made.results)} results" if len(made.results) > 1 else ""
    outliner.replace(group, root, made)
    return [*(f"{place}: {r}" for r in refusals), f"{place}: fused {ops}{results} as @{made.name}"]


def _is_unread_constant(operation: mlir.Operation) -> bool:
    """Groups have their own copies; calls, views and the return read the original."""
    return is_op(operation, *CONSTANTS) and not users(operation.results[0])


def _is_root(operation: mlir.Operation) -> bool:
    """Whether it must be stored, now that all after it are in groups: it is neither a parameter nor a view."""
    op = op_of(operation)
    return op is not None and op is not param and op is not reshape


def _group(root: mlir.Operation) -> tuple[list[mlir.Operation], list[str]]:
    """The root with its twins and their inlined producers, in order, and the reasons for those left outside."""
    roots = [root]
    ops, refusals = _with_producers(roots)
    while (twin := _twin(root, ops)) is not None:
        roots.append(twin)
        ops, refusals = _with_producers(roots)
    return in_block_order([*ops, *_own_copies(ops)]), [f"{s.name} stays outside: {r}" for s, r in refusals.items()]


def _with_producers(roots: list[mlir.Operation]) -> tuple[list[mlir.Operation], dict[mlir.Operation, str]]:
    """Roots and what is inlined into them, but for constants; and what is not, and why."""
    group, work = list(roots), list(roots)
    refusals: dict[mlir.Operation, str] = {}
    while work:
        consumer = work.pop()
        for operand in consumer.operands:
            source = defining_op(operand)
            if source is None or op_of(source) is None or is_op(source, param, *CONSTANTS) or source in group:
                continue
            reason = _refusal(source, consumer, group)
            if reason is None:
                refusals.pop(source, None)
                group.append(source)
                work.append(source)
            else:
                refusals[source] = reason
    return group, refusals


def _twin(root: mlir.Operation, group: list[mlir.Operation]) -> mlir.Operation | None:
    """The last op outside that reads what the group reads and fits into the loops of an elementwise root, or None."""
    if not is_elementwise(root) or len(group) >= MAX_OPS:
        return None
    read = dict.fromkeys(v for op in group for v in op.operands if producer(v, *CONSTANTS) is None)
    shape = type_of(root.results[0]).shape
    fitting = {
        reader
        for value in read
        for reader in users(value)
        if is_elementwise(reader) and reader not in group and type_of(reader.results[0]).shape == shape
    }
    together = (
        op for op in reversed(in_block_order(list(fitting))) if not completes_late(in_block_order([*group, op]))
    )
    return next(together, None)


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


def _own_copies(group: list[mlir.Operation]) -> list[mlir.Operation]:
    """Clones of the constants that the ops of a group read, so that groups share none."""
    read = [(defining_op(value), consumer) for consumer in group for value in dict.fromkeys(consumer.operands)]
    return [
        _own_copy(source, consumer) for source, consumer in read if source is not None and is_op(source, *CONSTANTS)
    ]


def _own_copy(source: mlir.Operation, consumer: mlir.Operation) -> mlir.Operation:
    """A clone of a constant right before its consumer, so that groups share none."""
    clone = source.clone(ip=mlir.InsertionPoint(consumer)).operation
    for i, operand in enumerate(consumer.operands):
        if operand == source.results[0]:
            consumer.operands[i] = clone.results[0]
    return clone
