"""Activation-aware scaling: channels of a weight that meet large activations are made larger before it is rounded.

Lin et al. 2023 (AWQ). y = W x = (W * s) (x / s): the columns of W are multiplied by s, and what makes x is divided by
it: the gain of a norm, or the rows of the up projection of a SwiGLU. So nothing is left to do at run time. s comes
from a calibration text (see `warploom/calibration.py`) as a tensor of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.function import Function, functions
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import cast, div, mul
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import along_columns, along_rows, rms_norm
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.rewrite import before, entries, is_op, is_weight, producer, users
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_weights import module_paths


@dataclass(frozen=True)
class ScaledInput:
    """Linears that read one value, and the op that makes it and can be scaled for free: a norm, or an up projection."""

    linears: tuple[mlir.Operation, ...]
    source: mlir.Operation

    @property
    def name(self) -> str:
        """Of the tensor with its scales, one for each channel."""
        return f"{module_paths(self.linears[0])[-1]}.input_scaling"

    @property
    def channels(self) -> int:
        """Columns of the weights."""
        return type_of(self.linears[0].operands[1]).resolve({})[1]


def scale_activations(module: mlir.Module, rules: Rules, scales: Mapping[str, object]) -> None:
    """Scale every input that a scheme wants scaled and that has scales, known by its name."""
    prepare = functions(module)[PREPARE]
    for function in entries(module):
        for found in list(scaled_inputs(function, rules)):
            if found.name in scales:
                _apply(found, prepare)


def scaled_inputs(function: Function, rules: Rules) -> Iterator[ScaledInput]:
    """The inputs of linears of calibrated schemes that can be scaled."""
    for operation in function.ops:
        if not is_op(operation, rms_norm, swiglu):
            continue
        readers = tuple(users(operation.results[0]))
        source = operation if is_op(operation, rms_norm) else _up_projection(operation)
        if readers and source is not None and all(_wants_scaling(reader, rules) for reader in readers):
            yield ScaledInput(readers, source)


def _up_projection(operation: mlir.Operation) -> mlir.Operation | None:
    """The linear that makes the factor of a SwiGLU, if nobody else reads it."""
    source = producer(operation.operands[1], linear)
    return source if source is not None and _owns_weight(source) and len(users(source.results[0])) == 1 else None


def _wants_scaling(operation: mlir.Operation, rules: Rules) -> bool:
    if not is_op(operation, linear) or not _owns_weight(operation):
        return False
    scheme = rules.scheme_of(module_paths(operation))
    return scheme is not None and scheme.calibration is not None


def _owns_weight(operation: mlir.Operation) -> bool:
    """Whether a linear reads a weight in rows that no other op reads."""
    weight = operation.operands[1]
    return is_weight(weight) and linear.attrs_of(operation)["layout"] == "row" and len(users(weight)) == 1


def _apply(found: ScaledInput, prepare: Function) -> None:
    shape = (found.channels,)
    with before(prepare.terminator):
        export(checkpoint(name=found.name, shape=shape, dtype="f32"), name=found.name)
    with before(found.source):
        scale = param(name=found.name, shape=shape, dtype="f32")
        wide = cast(found.source.operands[1], dtype="f32")
        is_norm = is_op(found.source, rms_norm)
        found.source.operands[1] = div(wide, scale if is_norm else along_rows(scale, wide))
    for operation in found.linears:
        with before(operation):
            wide = cast(operation.operands[1], dtype="f32")
            operation.operands[1] = mul(wide, along_columns(scale, wide))
