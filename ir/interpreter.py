"""The numpy meaning of a program: the oracle of passes and kernels, and what runs `@prepare`.

Arithmetic is in f32 and results are rounded to their dtype, op by op. With `compute=np.float64`, f32 values are
computed and kept in double precision instead, which tells how sensitive a program is to rounding; f16 and bf16 still
round, for that is part of a program's meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import Kind
from warploom.ir.dims import bind, resolve
from warploom.ir.function import Function, functions, path_of
from warploom.ir.op import Op, op_of, prefixed
from warploom.ir.ops.parameters import Named, export
from warploom.ir.types import DType, TensorType, type_of

Loader = Callable[[str], np.ndarray]
Compute = type[np.floating[Any]]


@dataclass
class Frame:
    """What the ops of one function see, and the values that later ops still need."""

    functions: Mapping[str, Function]
    load: Loader  # of params (in entries) or checkpoint tensors (in @prepare), by name
    compute: Compute = np.float32
    look: Callable[[mlir.Value, np.ndarray], None] | None = None  # sees every value as it is made
    env: dict[str, int] = field(default_factory=dict)
    values: dict[mlir.Value, np.ndarray] = field(default_factory=dict)


def evaluate(
    module: mlir.Module,
    name: str,
    inputs: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray] | None = None,
    *,
    compute: Compute = np.float32,
    look: Callable[[mlir.Value, np.ndarray], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run `@name` and return its results by name.

    Args:
        module: a verified module.
        name: a function without the @.
        inputs: every input by name; shapes bind the symbols.
        params: packed parameters by name.
        compute: np.float32, or np.float64 to measure rounding.
        look: sees every value of the function as it is made.

    Raises:
        IRError: there is no such function, or an input or parameter is missing or has the wrong shape or dtype.
    """
    found = functions(module)
    if name not in found:
        raise IRError(f"there is no function @{name}", expected=", ".join(found))
    function = found[name]
    if function.inputs.keys() != inputs.keys():
        raise IRError(f"wrong inputs of @{name}", expected=str(sorted(function.inputs)), found=str(sorted(inputs)))
    arguments = [_checked(inputs[n], type_of(v), f"input {n}") for n, v in function.inputs.items()]
    frame = Frame(found, loader(params or {}), compute, look)
    bind([type_of(v).shape for v in function.inputs.values()], [a.shape for a in arguments], frame.env)
    _check_bounds(function, frame.env)
    return dict(zip(function.results, _run(function, arguments, frame), strict=True))


def evaluate_exports(
    module: mlir.Module, load: Loader, wanted: Container[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Run `@prepare` parameter by parameter: only what one export needs is in memory, plus what others share.

    Args:
        module: the module.
        load: reads a checkpoint tensor by name.
        wanted: names of exports; None: all.

    Yields:
        Name and value of each wanted export, in program order.
    """
    exports = [op for op in functions(module)["prepare"].ops if op_of(op) is export]
    if wanted is not None:
        exports = [op for op in exports if op.attributes["name"].value in wanted]
    frame, pending = Frame({}, load), _uses(exports)
    for operation in exports:
        yield operation.attributes["name"].value, _demand(operation.operands[0], pending, frame)


def apply(operation: mlir.Operation, operands: list[np.ndarray], frame: Frame) -> tuple[np.ndarray, ...]:
    """The results of one op or call.

    Raises:
        IRError: a stored tensor is missing or does not fit, or an op's meaning disagrees with its inferred type.
    """
    op = op_of(operation)
    if op is None:
        callee = frame.functions[operation.attributes["callee"].value]
        # MLIR holds operands to the callee's exact types, so a symbol is the same number on both sides.
        inner = Frame(frame.functions, frame.load, frame.compute, env=dict(frame.env))
        return tuple(_run(callee, operands, inner))
    if isinstance(op, Named):
        name = operation.attributes["name"].value
        results: Any = _checked(frame.load(name), type_of(operation.results[0]), f"{op.name} {name}")
    else:
        wide = [x.astype(frame.compute, copy=False) if _is_float(x) else x for x in operands]
        with np.errstate(all="ignore"):
            results = op.evaluate(*wide, **_concrete_attrs(op, operation, frame.env))
    arrays = results if isinstance(results, tuple) else (results,)
    return tuple(_conform(a, r, frame) for a, r in zip(arrays, operation.results, strict=True))


def loader(tensors: Mapping[str, np.ndarray]) -> Loader:
    """Reads from a mapping; an unknown name is an `IRError`."""

    def load(name: str) -> np.ndarray:
        if name not in tensors:
            raise IRError(f"tensor {name} is missing", expected=", ".join(sorted(tensors)) or "no tensors")
        return tensors[name]

    return load


def _uses(exports: list[mlir.Operation]) -> Counter[mlir.Value]:
    """How often each value is read on the way to the exports."""
    uses: Counter[mlir.Value] = Counter()
    waiting, seen = list(exports), set(exports)
    while waiting:
        operation = waiting.pop()
        uses.update(operation.operands)
        owners = {v.owner for v in operation.operands} - seen
        seen |= owners
        waiting += owners
    return uses


def _demand(value: mlir.Value, pending: Counter[mlir.Value], frame: Frame) -> np.ndarray:
    """Compute a value, and forget it when its last reader has it."""
    if value not in frame.values:
        operation = value.owner
        operands = [_demand(v, pending, frame) for v in operation.operands]
        for result, array in zip(operation.results, apply(operation, operands, frame), strict=True):
            if pending[result]:
                frame.values[result] = array
    pending[value] -= 1
    return frame.values[value] if pending[value] else frame.values.pop(value)


def _run(function: Function, arguments: list[np.ndarray], frame: Frame) -> list[np.ndarray]:
    """Execute a block, forgetting values after their last use."""
    parameters = list(function.body.arguments)
    bind([type_of(p).shape for p in parameters], [a.shape for a in arguments], frame.env)
    frame.values.update(zip(parameters, arguments, strict=True))
    operations = [*function.ops, function.terminator]
    last = {operand: i for i, op in enumerate(operations) for operand in op.operands}
    for i, operation in enumerate(operations[:-1]):
        operands = [frame.values[v] for v in operation.operands]
        try:
            results = apply(operation, operands, frame)
        except IRError as error:
            raise prefixed(error, f"@{function.name}: {path_of(operation)}") from error
        if frame.look is not None:
            for result, array in zip(operation.results, results, strict=True):
                frame.look(result, array)
        frame.values.update((r, a) for r, a in zip(operation.results, results, strict=True) if r in last)
        for operand in set(operation.operands):
            if last[operand] == i:
                del frame.values[operand]
    return [frame.values[v] for v in function.terminator.operands]


def _checked(array: np.ndarray, wanted: TensorType, what: str) -> np.ndarray:
    """A tensor from outside; its shape is compared when symbols are bound."""
    if DType.of(array) is not wanted.dtype or array.ndim != wanted.rank:
        raise IRError(f"{what} has the wrong type", expected=str(wanted), found=f"{array.shape} of {array.dtype}")
    return array


def _check_bounds(function: Function, env: Mapping[str, int]) -> None:
    """The facts that the function states of its symbols hold; passes and kernels rely on them."""
    for name, known in function.dims.items():
        value = env.get(name, known.min)
        if not known.min <= value <= known.max or value % known.multiple_of:
            raise IRError(f"{name} is outside of its bounds", expected=str(known), found=str(value))


def _conform(array: np.ndarray, result: mlir.Value, frame: Frame) -> np.ndarray:
    """Round to the dtype of the result and check the shape."""
    wanted = type_of(result)
    shape = wanted.resolve(frame.env)
    if array.shape != shape:
        raise IRError("a value has the wrong shape", expected=f"{wanted} = {shape}", found=str(array.shape))
    dtype = frame.compute if wanted.dtype is DType.F32 else wanted.dtype.numpy
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(dtype, copy=False)


def _concrete_attrs(op: Op, operation: mlir.Operation, env: Mapping[str, int]) -> dict[str, Any]:
    attrs = op.attrs_of(operation)
    shapes = {a.name for a in op.attributes if a.kind is Kind.SHAPE}
    return {n: tuple(resolve(d, env) for d in v) if n in shapes else v for n, v in attrs.items()}


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"
