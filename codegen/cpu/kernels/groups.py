"""What the `match` functions of kernel families read from a fusion group."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cpu.kernel import Slot
from warploom.ir.dims import DimLike, product
from warploom.ir.function import Function
from warploom.ir.op import Op
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of


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


def refuse_activations(*values: mlir.Value) -> str | None:
    """Why the kernels cannot read or write values, or None: they compute on f32 only."""
    found = [str(type_of(value)) for value in values if type_of(value).dtype is not DType.F32]
    return f"activations must be f32; here {', '.join(found)}" if found else None


def refuse_cache(kv: mlir.Value, head_dim: DimLike, page_size: int, k_layout: str) -> str | None:
    """Why the kernels cannot use a cache, or None."""
    if page_size != 16 or k_layout != "dim_major":
        return f"pages must be 16 tokens, dim_major; here {page_size}, {k_layout}"
    if not isinstance(head_dim, int) or head_dim % 16:
        return f"head_dim must be a multiple of 16; here {head_dim}"
    heads = type_of(kv).shape[3]
    return None if isinstance(heads, int) else f"the number of kv heads must be static; here {heads}"


def refuse_rows(latent: DimLike, rotated: DimLike, page_size: int) -> str | None:
    """Why the kernels cannot use a cache of latent rows, or None."""
    if page_size != 16 or not isinstance(latent, int) or not isinstance(rotated, int) or latent % 16 or rotated % 16:
        return f"rows are multiples of 16, latent and rotated, in pages of 16; here {latent}, {rotated}, {page_size}"
    return None


@dataclass(frozen=True, slots=True)
class Range:
    """Columns from `start` on of a matrix [T, stride]."""

    start: int
    stride: int

    def __str__(self) -> str:
        return f"{self.start}of{self.stride}"


@dataclass(frozen=True, slots=True)
class Columns:
    """A value [T, ..] as a range of columns of a matrix [T, stride]: element (t, i) is matrix[t, start + i]."""

    matrix: mlir.Value
    stride: int
    start: int

    @property
    def range(self) -> Range:
        """Which columns of the matrix."""
        return Range(self.start, self.stride)


def columns_of(value: mlir.Value) -> Columns | str:
    """Follow reshapes and one slice of the last axis of a matrix up to where a value comes from."""
    tokens, start = type_of(value).shape[0], 0
    while (operation := producer(value, reshape, slice_axis)) is not None:
        source = operation.operands[0]
        shape = type_of(source).shape
        if is_op(operation, slice_axis):
            attrs = slice_axis.attrs_of(operation)
            if len(shape) != 2 or shape[0] != tokens or attrs["axis"] != 1:
                return f"a slice of {type_of(source)} is no range of columns"
            start += attrs["start"]
        value = source
    shape = type_of(value).shape
    stride = product(shape[1:])
    if not shape or shape[0] != tokens or not isinstance(stride, int):
        return f"{type_of(value)} is no matrix of tokens"
    return Columns(value, stride, start)
