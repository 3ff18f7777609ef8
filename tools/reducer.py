"""Delta debugging of programs: try smaller ones, in chunks that halve, until none still fails.

Every candidate is valid: ops are removed by handing their results in as inputs, and what nobody needs then goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import mlir.ir as mlir

from warploom.errors import IRError
from warploom.ir.context import parse, print_module
from warploom.ir.dims import DimRange
from warploom.ir.function import Function, dims_attribute, functions, public_functions, seal
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE, verify
from warploom.passes.dce import dce

T = TypeVar("T")
Judge = Callable[[str], bool]
Edit = Callable[[mlir.Module], bool]  # whether it did anything


def num_ops(module: mlir.Module) -> int:
    """Return the number of ops of all functions."""
    return sum(len(function.ops) for function in functions(module).values())


def reduced(text: str, fails: Judge, progress: Callable[[int], None] = lambda ops: None) -> str:
    """Return a program that still fails and that no single step makes smaller.

    Args:
        text: fails.
        fails: judges a valid program.
        progress: called with the number of ops left, whenever it shrinks.
    """
    again = True
    while again:
        again = False
        for edits in (
            _without_functions,
            _without_results,
            _other_results,
            _without_ops,
            _without_inputs,
            _smaller_dims,
        ):
            smaller = _shrunk(text, edits, fails)
            if smaller != text:
                text, again = smaller, True
                progress(num_ops(parse(text)))
    return text


def _shrunk(text: str, edits: Callable[[mlir.Module], Sequence[Edit]], fails: Judge) -> str:
    """Apply as many edits of one kind as possible: all at once, then halves, down to single ones."""
    size = len(edits(parse(text)))
    while size:
        start = 0
        while start < len(edits(parse(text))):
            candidate = _edited(text, edits, start, size)
            if candidate is not None and _measure(candidate) < _measure(text) and fails(candidate):
                text = candidate  # the list is shorter now: look at the same place again
            else:
                start += size
        size //= 2
    return text


def _measure(text: str) -> tuple[int, int]:
    """What shrinks."""
    return num_ops(parse(text)), len(text)


def _edited(text: str, edits: Callable[[mlir.Module], Sequence[Edit]], start: int, size: int) -> str | None:
    """The program after edits [start, start + size), or None if it is no valid program, or the same."""
    module = parse(text)
    done = [edit(module) for edit in edits(module)[start : start + size]]
    if not any(done):
        return None
    try:
        dce(module)
        verify(module)
    except IRError:
        return None
    return print_module(module)


def _without_functions(module: mlir.Module) -> list[Edit]:
    def remove(name: str) -> Edit:
        def edit(module: mlir.Module) -> bool:
            functions(module)[name].operation.operation.erase()
            return True

        return edit

    return [remove(name) for name in public_functions(module) if len(public_functions(module)) > 1]


def _without_results(module: mlir.Module) -> list[Edit]:
    def remove(name: str, result: str) -> Edit:
        def edit(module: mlir.Module) -> bool:
            function = functions(module)[name]
            kept = {n: v for n, v in function.results.items() if n != result}
            _set_results(function, kept)
            return True

        return edit

    return [remove(n, r) for n, f in _entries(module) for r in f.results if len(f.results) > 1]


def _other_results(module: mlir.Module) -> list[Edit]:
    """Return what one op makes, in place of all else."""

    def end(name: str, index: int) -> Edit:
        def edit(module: mlir.Module) -> bool:
            function = functions(module)[name]
            _set_results(function, {f"r{i}": value for i, value in enumerate(function.ops[index].results)})
            return True

        return edit

    return [end(name, i) for name, function in _entries(module) for i in range(len(function.ops))]


def _without_ops(module: mlir.Module) -> list[Edit]:
    """From the last op to the first: a result that is given as an input needs none of what made it."""

    def cut(name: str, index: int) -> Edit:
        def edit(module: mlir.Module) -> bool:
            function = functions(module)[name]
            operation = function.ops[index]
            inputs = list(function.operation.attributes["arg_attrs"])
            for result in operation.results:
                if list(result.uses):
                    given = function.body.add_argument(result.type, operation.location)
                    result.replace_all_uses_with(given)
                    label = _fresh(function, f"cut{len(inputs)}")
                    inputs.append(mlir.DictAttr.get({"wl.name": mlir.StringAttr.get(label)}))
            seal(function.operation, inputs, list(function.result_names))
            return True

        return edit

    found = []
    for name, function in _entries(module):
        found += [cut(name, i) for i in reversed(range(len(function.ops)))]
    return found


def _without_inputs(module: mlir.Module) -> list[Edit]:
    def remove(name: str, label: str) -> Edit:
        def edit(module: mlir.Module) -> bool:
            function = functions(module)[name]
            index = function.input_names.index(label)
            inputs = list(function.operation.attributes["arg_attrs"])
            if list(function.body.arguments[index].uses):
                return False
            function.body.erase_argument(index)
            seal(function.operation, inputs[:index] + inputs[index + 1 :], list(function.result_names))
            return True

        return edit

    return [remove(name, label) for name, function in _entries(module) for label in function.input_names]


def _smaller_dims(module: mlir.Module) -> list[Edit]:
    """Symbols that nothing uses go; others get the tightest bounds that a run takes."""

    def shrink(name: str, symbol: str) -> Edit:
        def edit(module: mlir.Module) -> bool:
            function = functions(module)[name]
            dims = function.dims
            known = dims[symbol]
            lowest = max(known.min, known.multiple_of)
            if _is_used(function, symbol):
                dims[symbol] = DimRange(known.min, max(lowest, known.min), known.multiple_of)
            else:
                del dims[symbol]
            if dims == function.dims:
                return False
            function.operation.attributes["wl.dims"] = dims_attribute(dims)
            return True

        return edit

    return [shrink(name, symbol) for name, function in _entries(module) for symbol in function.dims]


def _is_used(function: Function, symbol: str) -> bool:
    values = [*function.body.arguments, *(r for op in function.ops for r in op.results)]
    return any(symbol in str(d) for v in values for d in type_of(v).shape)


def _entries(module: mlir.Module) -> Iterator[tuple[str, Function]]:
    """The public functions but `@prepare`, which follows them."""
    return iter([(name, f) for name, f in public_functions(module).items() if name != PREPARE])


def _fresh(function: Function, label: str) -> str:
    names = set(function.input_names)
    while label in names:
        label += "'"
    return label


def _set_results(function: Function, results: dict[str, mlir.Value]) -> None:
    terminator = function.terminator
    with mlir.InsertionPoint(terminator), terminator.location:
        mlir.Operation.create("func.return", operands=list(results.values()))
    terminator.erase()
    seal(function.operation, list(function.operation.attributes["arg_attrs"]), list(results))
