"""What groups of kernels make of an entry, by the interpreter: what `gpu_steps` compares a GPU with.

A group that norms rows and rounds them to eight bits has near ties: the last bits of a norm depend on the order of its
sum, and where they decide between two neighbours both are right. They are found by moving every normed number by
2^-20, as `tests/gpu/rounded_rows.py` does, up and down: what that changes is the slack of a value, zero almost
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import mlir.ir as mlir
import numpy as np

from warploom.codegen.plan import called, callee, updated_input
from warploom.ir.dims import bind
from warploom.ir.function import Function, functions, path_of
from warploom.ir.interpreter import Frame, apply, evaluate, loader
from warploom.ir.ops.norm import layer_norm, rms_norm
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import type_of
from warploom.tools.gpu_package import Step

LAST_BITS = 2.0**-20  # relative: a sum of thousands of f32 in any order, a quotient, a root and two products
Arrays = Mapping[str, np.ndarray]


@dataclass
class StepValues:
    """Steps of an entry, and by name their values and, where there are near ties, their slack (f32)."""

    steps: list[Step] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    slack: dict[str, np.ndarray] = field(default_factory=dict)


def step_values(module: mlir.Module, entry: str, inputs: Arrays, params: Arrays) -> StepValues:
    """Evaluate an entry of a fused module, and keep what its calls make; what they update in place is not kept."""
    found, made = functions(module), dict[mlir.Value, np.ndarray]()
    function, result = found[entry], StepValues()
    made |= {value: inputs[name] for name, value in function.inputs.items()}
    evaluate(module, entry, inputs, params, look=made.__setitem__)
    names = {_source(value): name for name, value in function.results.items()}
    for position, call in enumerate(called(function)):
        group = found[callee(call)]
        moved = _moved(group, [made[operand] for operand in call.operands], found)
        for index, value in enumerate(call.results):
            if updated_input(group, index) is not None:
                continue
            name = names.get(value, f"%{position}.{index}")
            result.steps.append(Step(name, position, path_of(call)))
            result.values[name] = made[value]
            slack = sum((_apart(other[index], made[value]) for other in moved), np.zeros(()))
            if slack.any():
                result.slack[name] = slack.astype(np.float32)
    return result


def _source(value: mlir.Value) -> mlir.Value:
    """What a view is a view of."""
    while (view := producer(value, reshape)) is not None:
        value = view.operands[0]
    return value


def _moved(group: Function, operands: Sequence[np.ndarray], found: Mapping[str, Function]) -> list[list[np.ndarray]]:
    """The results of a group whose norms are moved down and up, if it rounds what it norms."""
    if not any(is_op(op, quantize, quantize_static) for op in group.ops):
        return []
    if not any(is_op(op, rms_norm, layer_norm) for op in group.ops):
        return []
    return [list(_evaluated(group, operands, found, error)) for error in (-LAST_BITS, LAST_BITS)]


def _evaluated(
    group: Function, operands: Sequence[np.ndarray], found: Mapping[str, Function], error: float
) -> Iterator[np.ndarray]:
    arguments = list(group.body.arguments)
    values, frame = dict(zip(arguments, operands, strict=True)), Frame(found, loader({}))
    bind([type_of(argument).shape for argument in arguments], [array.shape for array in operands], frame.env)
    for operation in group.ops:
        arrays = [values[operand] for operand in operation.operands]
        if is_op(operation, rms_norm, layer_norm):
            arrays[1] = arrays[1].astype(np.float32) * np.float32(1 + error)
        values.update(zip(operation.results, apply(operation, arrays, frame), strict=True))
    yield from (values[value] for value in group.terminator.operands)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float64) - b.astype(np.float64))
