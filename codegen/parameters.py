"""The packed parameters of an artifact: what `@prepare` exports, once for all targets whose packing agrees.

A parameter's name says how it was made of which tensors (`hoist_weights`), so equal names are equal data. That is
checked, not believed: a name that stands for two computations is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.function import functions
from warploom.ir.ops.parameters import export
from warploom.ir.rewrite import is_op
from warploom.ir.verify import PREPARE


def exports(module: mlir.Module) -> Iterator[tuple[str, mlir.Value]]:
    """Name and value of every parameter that a module packs, in program order."""
    for op in functions(module)[PREPARE].ops:
        if is_op(op, export):
            yield op.attributes["name"].value, op.operands[0]


class Parameters:
    """The names that modules have exported so far."""

    def __init__(self) -> None:
        self._definitions: dict[str, str] = {}

    def add(self, module: mlir.Module) -> dict[str, mlir.Value]:
        """Return what a module exports that none before it did.

        Raises:
            CompileError: it computes a parameter otherwise than a module before it.
        """
        known: dict[mlir.Operation, str] = {}
        added = {}
        for name, value in exports(module):
            definition = _definition(value, known)
            if self._definitions.setdefault(name, definition) != definition:
                raise CompileError(
                    f"two targets pack the parameter {name!r} in two ways",
                    expected="equal names for equal data",
                    fix="compile an artifact for each of them, and report this",
                )
            if name not in added and self._definitions[name] is definition:
                added[name] = value
        return added


def _definition(value: mlir.Value, known: dict[mlir.Operation, str]) -> str:
    """A hash of the computation of a value."""
    made = value.owner.operation
    if made not in known:
        attributes = sorted(f"{name}={made.attributes[name]}" for name in made.attributes)
        parts = [made.name, *attributes, str(made.results[0].type), *(_definition(v, known) for v in made.operands)]
        known[made] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"{known[made]}.{list(made.results).index(value)}"
