"""Patterns that more than one room recognizes."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.op import op_of
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import Binary, Unary, add, bitcast, cast, select
from warploom.ir.ops.linear import linear
from warploom.ir.ops.quantized_linear import scaled_linear
from warploom.ir.ops.shape import broadcast, slice_axis
from warploom.ir.rewrite import is_op, producer, users
from warploom.ir.types import DType, type_of


def weight_operands(operation: mlir.Operation) -> list[mlir.Value]:
    """The matrix of a linear or an embedding, and its scales and offsets if it has any."""
    return list(operation.operands)[2 if is_op(operation, scaled_linear) else 1 :]


def has_row_scales(operation: mlir.Operation) -> bool:
    """Whether a linear or embedding reads floats, or numbers with one f32 scale per row and no offsets."""
    _, *sides = weight_operands(operation)
    return all(type_of(s).dtype is DType.F32 and type_of(s).shape[1] == 1 for s in sides) and len(sides) < 2


@dataclass(frozen=True)
class Bias:
    """What is added to every row of a linear's result: `bias` [n], by `ops`, which makes `result`."""

    bias: mlir.Value
    ops: tuple[mlir.Operation, mlir.Operation]
    result: mlir.Value


def bias_of(operation: mlir.Operation) -> Bias | None:
    """The bias of a linear whose result nothing else reads."""
    y = operation.results[0]
    readers = users(y)
    if len(readers) != 1 or not is_op(readers[0], add) or list(readers[0].operands).count(y) != 1:
        return None
    (other,) = (value for value in readers[0].operands if value != y)
    repeated = producer(other, broadcast)
    if repeated is None or len(users(other)) != 1:
        return None
    bias, last = repeated.operands[0], type_of(y).rank - 1
    if type_of(bias).shape != type_of(y).shape[-1:] or broadcast.attrs_of(repeated)["dims"] != (last,):
        return None
    return Bias(bias, (repeated, readers[0]), readers[0].results[0])


def is_elementwise(operation: mlir.Operation) -> bool:
    """Whether an element of the result depends on the operands' elements at the same index only."""
    return isinstance(op_of(operation), Unary | Binary) or is_op(operation, cast, bitcast, select)


def feeds_swiglu(operation: mlir.Operation) -> bool:
    """Whether a linear's result is used as gate (first half) and up (second half) of one SwiGLU and nowhere else."""
    halves = users(operation.results[0])
    if len(halves) != 2 or not all(is_op(h, slice_axis) for h in halves):
        return False
    gate, up = sorted(halves, key=lambda h: int(slice_axis.attrs_of(h)["start"]))
    n = linear.attrs_of(operation)["n"]
    axis = type_of(operation.results[0]).rank - 1
    wanted = [{"axis": axis, "start": 0, "stop": n // 2}, {"axis": axis, "start": n // 2, "stop": n}]
    consumers = [users(h.results[0]) for h in (gate, up)]
    return (
        n % 2 == 0
        and [slice_axis.attrs_of(h) for h in (gate, up)] == wanted
        and all(len(c) == 1 and is_op(c[0], swiglu) for c in consumers)
        and list(consumers[0][0].operands) == [gate.results[0], up.results[0]]
    )
