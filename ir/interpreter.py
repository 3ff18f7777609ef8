"""The numpy meaning of a program: the oracle of passes and kernels, and what runs `@prepare`.

Narrow floats are computed in `compute` (f32) and rounded to the dtype of the result, op by op. With
`compute=np.float64` all floats are computed in double precision, which tells how sensitive a program is to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlir.ir as mlir
import numpy as np
from warploom.ir.attributes import Kind
from warploom.ir.dims import bind, resolve
from warploom.ir.function import Function, functions
from warploom.ir.op import Op, op_of
from warploom.ir.ops.parameters import Named, export
from warploom.ir.types import FLOATS, type_of

from warploom.errors import IRError

Loader = Callable[[str], np.ndarray]


@dataclass
class _Frame:
    """What the ops of one function see."""

    functions: dict[str, Function]
    load: Loader  # of params (in entries) or checkpoint tensors (in @prepare), by name
    compute: type[np.floating[Any]]
    env: dict[str, int] = field(default_factory=dict)
    values: dict[mlir.Value, np.ndarray] = field(default_factory=dict)


def evaluate(
    module: mlir.Module,
    name: str,
    inputs: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray] | None = None,
    *,
    compute: type[np.floating[Any]] = np.float32,
) -> dict[str, np.ndarray]:
    """Run `@name` and return its results by name.

    Args:
        module: a verified module.
        name: a function without the @.
        inputs: every input by name; shapes bind the symbols.
        params: packed parameters by name.
        compute: the dtype of float arithmetic.

    Raises:
        IRError: an input or parameter is missing or has the wrong shape.
    """
    found = functions(module)
    function = found[name]
    loader = (params or {}).__getitem__
    missing = function.inputs.keys() - inputs.keys()
    if missing:
        raise IRError(f"@{name} lacks inputs {sorted(missing)}")
    returned = _run(function, [inputs[n] for n in function.inputs], _Frame(found, loader, compute))
    return dict(zip(function.results, returned, strict=True))


def evaluate_exports(module: mlir.Module, load: Loader) -> Iterator[tuple[str, np.ndarray]]:
    """Run `@prepare` parameter by parameter: only what one export needs is in memory, plus what others share.

    Args:
        module: the module.
        load: reads a checkpoint tensor by name.

    Yields:
        Name and value of each export, in program order.
    """
    prepare = functions(module)["prepare"]
    frame = _Frame({}, load, np.float32)
    pending = Counter(operand for op in prepare.ops for operand in op.operands)
    for operation in prepare.ops:
        if op_of(operation) is export:
            (value,) = _demand([operation.operands[0]], pending, frame)
            yield operation.attributes["name"].value, value


def _demand(values: list[mlir.Value], pending: Counter[mlir.Value], frame: _Frame) -> list[np.ndarray]:
    """Compute values, and forget each when its last user has it."""
    results = []
    for value in values:
        if value not in frame.values:
            operation = value.owner
            operands = _demand(list(operation.operands), pending, frame)
            _store(operation, _apply(operation, operands, frame), frame)
        pending[value] -= 1
        results.append(frame.values[value] if pending[value] else frame.values.pop(value))
    return results


def _run(function: Function, arguments: list[np.ndarray], frame: _Frame) -> list[np.ndarray]:
    """Execute a block, forgetting values after their last use."""
    for argument, array in zip(function.body.arguments, arguments, strict=True):
        bind(type_of(argument).shape, array.shape, frame.env)
        frame.values[argument] = array
    operations = [*function.ops, function.terminator]
    last = {operand: i for i, op in enumerate(operations) for operand in op.operands}
    for i, operation in enumerate(operations[:-1]):
        operands = [frame.values[v] for v in operation.operands]
        _store(operation, _apply(operation, operands, frame), frame)
        for operand in set(operation.operands):
            if last[operand] == i:
                del frame.values[operand]
    return [frame.values[v] for v in function.terminator.operands]


def _store(operation: mlir.Operation, arrays: tuple[np.ndarray, ...], frame: _Frame) -> None:
    for result, array in zip(operation.results, arrays, strict=True):
        frame.values[result] = array


def _apply(operation: mlir.Operation, operands: list[np.ndarray], frame: _Frame) -> tuple[np.ndarray, ...]:
    op = op_of(operation)
    if op is None:
        callee = frame.functions[operation.attributes["callee"].value]
        inner = _Frame(frame.functions, frame.load, frame.compute)
        return tuple(_run(callee, operands, inner))
    if isinstance(op, Named):
        arrays: Any = frame.load(operation.attributes["name"].value)
    else:
        wide = [x.astype(frame.compute) if _is_float(x) else x for x in operands]
        with np.errstate(all="ignore"):
            arrays = op.evaluate(*wide, **_concrete_attrs(op, operation, frame.env))
    results = arrays if isinstance(arrays, tuple) else (arrays,)
    return tuple(_conform(a, r, frame) for a, r in zip(results, operation.results, strict=True))


def _conform(array: np.ndarray, result: mlir.Value, frame: _Frame) -> np.ndarray:
    """Round to the dtype of the result and check the shape."""
    wanted = type_of(result)
    shape = wanted.resolve(frame.env)
    if array.shape != shape:
        raise IRError("a value has the wrong shape", expected=f"{wanted} = {shape}", found=str(array.shape))
    if wanted.dtype in FLOATS and frame.compute is np.float64:
        return array.astype(np.float64)
    return array.astype(wanted.dtype.numpy, copy=False)


def _concrete_attrs(op: Op, operation: mlir.Operation, env: Mapping[str, int]) -> dict[str, Any]:
    attrs = op.attrs_of(operation)
    shapes = {a.name for a in op.attributes if a.kind is Kind.SHAPE}
    return {n: tuple(resolve(d, env) for d in v) if n in shapes else v for n, v in attrs.items()}


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"
