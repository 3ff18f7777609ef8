"""Replacing symbolic dimensions by numbers: what a compiler for fixed shapes would have been given."""

from __future__ import annotations

from collections.abc import Mapping

import mlir.ir as mlir

from warploom.ir.attributes import Kind, encode
from warploom.ir.dims import resolve
from warploom.ir.function import Function, functions, seal
from warploom.ir.op import op_of
from warploom.ir.types import TensorType, type_of


def specialize(module: mlir.Module, dims: Mapping[str, int]) -> None:
    """Substitute numbers for all symbols, in types and in attributes, in place."""
    for function in functions(module).values():
        for value in function.body.arguments:
            _retype(value, dims)
        for operation in function.ops:
            _substitute_attributes(operation, dims)
            for result in operation.results:
                _retype(result, dims)
        _reseal(function)


def _retype(value: mlir.Value, dims: Mapping[str, int]) -> None:
    type_ = type_of(value)
    value.set_type(TensorType(type_.resolve(dims), type_.dtype).to_mlir())


def _substitute_attributes(operation: mlir.Operation, dims: Mapping[str, int]) -> None:
    op = op_of(operation)
    if op is None:
        return
    attrs = op.attrs_of(operation)
    for attribute in op.attributes:
        if attribute.kind is Kind.SHAPE:
            numbers = tuple(resolve(d, dims) for d in attrs[attribute.name])
            operation.attributes[attribute.name] = encode(Kind.SHAPE, numbers)


def _reseal(function: Function) -> None:
    attributes = function.operation.attributes
    inputs = list(attributes["arg_attrs"]) if "arg_attrs" in attributes else []
    seal(function.operation, inputs, list(function.results))
