"""Turning a set of ops into a fusion group: a private function, called in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cmp_to_key
from itertools import count

import mlir.ir as mlir
from mlir.dialects import func

from warploom.ir.dims import Dim
from warploom.ir.function import Function, FunctionBuilder, functions
from warploom.ir.rewrite import copy_op, users
from warploom.ir.types import type_of

KIND, HERO = "wl.kind", "wl.hero"


class Outliner:
    """Makes groups in one module; groups with equal text are one function."""

    def __init__(self, module: mlir.Module) -> None:
        self._module = module
        self._functions = functions(module)
        self._names = {_text(f): name for name, f in self._functions.items() if f.is_private}

    def build(self, caller: Function, ops: Sequence[mlir.Operation], kind: str, hero: str) -> Function:
        """The function of a group, equal ones shared; the caller is not changed."""
        name = self._fresh_name(kind)
        dims = {n: r for n, r in caller.dims.items() if n in _symbols(ops)}
        builder = FunctionBuilder(self._module, name, dims, private=True)
        mapping: dict[mlir.Value, mlir.Value] = {}
        for i, value in enumerate(inputs_of(ops)):
            mapping[value] = builder.input(str(i), type_of(value))
        for operation in ops:
            with builder.point, mlir.Location.unknown():  # equal groups of different layers must have equal text
                copy_op(operation, mapping)
        function = builder.finish({str(i): mapping[v] for i, v in enumerate(results_of(ops))})
        function.operation.attributes[KIND] = mlir.StringAttr.get(kind)
        function.operation.attributes[HERO] = mlir.StringAttr.get(hero)
        return self._shared(function)

    def replace(self, ops: Sequence[mlir.Operation], hero: mlir.Operation, function: Function) -> None:
        """Put a call in place of the last op; it carries the location of the hero."""
        results, operands = results_of(ops), inputs_of(ops)
        with mlir.InsertionPoint(ops[-1]), hero.location:
            call = func.CallOp([r.type for r in results], function.name, operands)
        for old, new in zip(results, call.operation.results, strict=True):
            old.replace_all_uses_with(new)
        for operation in reversed(ops):
            operation.erase()

    def _fresh_name(self, kind: str) -> str:
        return next(name for i in count() if (name := f"{kind}_{i}") not in self._functions)

    def _shared(self, function: Function) -> Function:
        """The function itself if it is new, else the equal one that exists."""
        name = self._names.setdefault(_text(function), function.name)
        if name != function.name:
            function.operation.operation.erase()
        else:
            self._functions[name] = function
        return self._functions[name]


def in_block_order(ops: Sequence[mlir.Operation]) -> list[mlir.Operation]:
    """The ops in the order in which they stand."""

    def order(a: mlir.Operation, b: mlir.Operation) -> int:
        return -1 if a.is_before_in_block(b) else 1

    return sorted(ops, key=cmp_to_key(order))


def inputs_of(ops: Sequence[mlir.Operation]) -> list[mlir.Value]:
    """Values that a set of ops reads but does not make, in order of first use."""
    made = {result for op in ops for result in op.results}
    return list(dict.fromkeys(operand for op in ops for operand in op.operands if operand not in made))


def results_of(ops: Sequence[mlir.Operation]) -> list[mlir.Value]:
    """Values that others read; of an op with several results all, if any."""
    inside = set(ops)
    used = [op for op in ops if any(u not in inside for r in op.results for u in users(r))]
    return [r for op in used for r in op.results]


def completes_late(ops: Sequence[mlir.Operation]) -> str | None:
    """Why the ops cannot be computed together at the place of the last: somebody needs a result before that."""
    inside, last = set(ops), ops[-1]
    for value in results_of(ops):
        early = [u for u in users(value) if u not in inside and u.is_before_in_block(last)]
        if early:
            return f"{early[0].name} needs a result before the group is complete"
    return None


def _symbols(ops: Sequence[mlir.Operation]) -> set[str]:
    values = [*inputs_of(ops), *(r for op in ops for r in op.results)]
    return {s for v in values for d in type_of(v).shape if isinstance(d, Dim) for s in d.symbols}


def _text(function: Function) -> str:
    text = function.operation.operation.get_asm(use_local_scope=True)  # else all of the module is numbered
    return re.sub(rf"@{re.escape(function.name)}\b", "@", str(text))
