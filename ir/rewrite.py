"""Small tools for editing functions in place; passes are written with these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlir.ir as mlir

from warploom.ir.function import Function, public_functions
from warploom.ir.op import Effect, Op, op_of
from warploom.ir.ops.parameters import param
from warploom.ir.ops.shape import constant, full
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE


def entries(module: mlir.Module) -> list[Function]:
    """The public functions that run on the device: all but `@prepare`."""
    return [f for name, f in public_functions(module).items() if name != PREPARE]


@contextmanager
def before(operation: mlir.Operation) -> Iterator[None]:
    """New ops go right before `operation` and take its location."""
    with mlir.InsertionPoint(operation), operation.location:
        yield


def replace(operation: mlir.Operation, values: Sequence[mlir.Value]) -> None:
    """Redirect all uses of an op's results and erase it."""
    for result, value in zip(operation.results, values, strict=True):
        result.replace_all_uses_with(value)
    operation.erase()


def copy_op(operation: mlir.Operation, mapping: dict[mlir.Value, mlir.Value]) -> None:
    """Copy an op to MLIR's current insertion point and location.

    Args:
        mapping: from the values that it reads to those that the copy reads; its results are added with the copy's.
    """
    copy = mlir.Operation.create(
        operation.name,
        results=[r.type for r in operation.results],
        operands=[mapping[o] for o in operation.operands],
        attributes=dict(operation.attributes.items()),
    )
    mapping.update(zip(operation.results, copy.results, strict=True))


def users(value: mlir.Value) -> list[mlir.Operation]:
    """The ops that read a value, once per use."""
    return [use.owner.operation for use in value.uses]


def defining_op(value: mlir.Value) -> mlir.Operation | None:
    """The op that makes a value, or None for a function input."""
    return value.owner.operation if isinstance(value.owner, mlir.Operation | mlir.OpView) else None


def is_op(operation: mlir.Operation | None, *specs: Op) -> bool:
    """Whether an operation is one of the given ops."""
    return operation is not None and op_of(operation) in specs


def producer(value: mlir.Value, *specs: Op) -> mlir.Operation | None:
    """The op that makes a value, if it is one of `specs`."""
    operation = defining_op(value)
    return operation if is_op(operation, *specs) else None


def is_pure(operation: mlir.Operation) -> bool:
    """Whether the op may be removed when unused and merged with an equal one; calls of groups are pure."""
    op = op_of(operation)
    return op is None or op.effect is Effect.NONE


def rewrite_each(functions: Sequence[Function], rule: Callable[[mlir.Operation], bool]) -> None:
    """Offer every op to `rule` (which returns whether it changed the program) until nothing changes."""
    for function in functions:
        changed = True
        while changed:
            changed = False
            for operation in function.ops:
                changed |= rule(operation)


def param_name(value: mlir.Value) -> str | None:
    """The name of the parameter that a value is, or None."""
    operation = producer(value, param)
    return None if operation is None else str(operation.attributes["name"].value)


def parameters_of(value: mlir.Value) -> list[str]:
    """Names of the parameters that a value is computed from, in order."""
    name, source = param_name(value), defining_op(value)
    if name is not None or source is None:
        return [name] if name is not None else []
    return [found for operand in source.operands for found in parameters_of(operand)]


def is_weight(value: mlir.Value) -> bool:
    """Whether a value has a static shape and depends on parameters, and beside them on constants only, so that it can
    be computed in `@prepare`.
    """
    operation = defining_op(value)
    if operation is None or op_of(operation) is None or not type_of(value).is_static:
        return False
    if is_op(operation, param):
        return True
    inputs = [operand for operand in operation.operands if producer(operand, full, constant) is None]
    return len(inputs) > 0 and is_pure(operation) and all(map(is_weight, inputs))
