"""What the `match` functions of kernel families read from a fusion group. Target independent."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.binding import Slot
from warploom.ir.dims import DimLike, product
from warploom.ir.function import Function
from warploom.ir.op import Op
from warploom.ir.rewrite import is_op
from warploom.ir.types import type_of


def only_op(group: Function, *specs: Op) -> mlir.Operation | str:
    """The single op of a group if it is one of `specs`, else why not."""
    if len(group.ops) == 1 and is_op(group.ops[0], *specs):
        return group.ops[0]
    wanted, found = " or ".join(spec.name for spec in specs), ", ".join(op.name for op in group.ops)
    return f"takes {wanted} alone, not {found}"


def input_slot(group: Function, value: mlir.Value, offset: str = "0") -> Slot:
    """The slot of a value that is an input of the group."""
    return Slot("input", list(group.inputs.values()).index(value), offset)


def result_slot(group: Function, value: mlir.Value) -> Slot:
    """The slot of a value that the group returns."""
    return Slot("result", list(group.results.values()).index(value))


def kv_slot(group: Function, kv: mlir.Value, layer: int) -> Slot:
    """The slot of a cache input [layers, C, 2, kv_heads, page_size * head_dim], at a layer."""
    type_ = type_of(kv)
    layer_bytes = product(type_.shape[1:]) * (type_.dtype.numpy.itemsize * layer)
    return input_slot(group, kv, str(layer_bytes))


def static(dim: DimLike) -> int:
    """A dimension that was checked to be static."""
    assert isinstance(dim, int)
    return dim
