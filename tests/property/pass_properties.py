"""What every pass promises, checked on one generated program.

The numbers are those of the list in the design notes (JAX, XLA, NNSmith and Tzer have the practices): the output
verifies (1) and means the same (2); the pass is idempotent (3); its output survives printing and parsing (4); entry
points keep their signature (5); a measure does not grow (6); specializing symbolic dimensions before or after makes
no difference (7); any order of passes means the same (8); the same input gives the same text (9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlir.ir as mlir
import numpy as np
from hypothesis import assume

from tests.property.programs import Program, dialect, result_types
from tests.property.specialize import specialize
from tests.tolerances import assert_close
from warploom.ir.context import parse, print_module
from warploom.ir.function import public_functions
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE, verify

Pass = Callable[[mlir.Module], None]
Measure = Callable[[mlir.Module], int]


@dataclass(frozen=True)
class PassCase:
    """A pass and what it promises beyond keeping the meaning.

    Attributes:
        apply: the pass.
        exact: it changes no arithmetic, so that results agree bit for bit.
        idempotent: a second run changes nothing.
        measure: what it never makes larger, such as the number of ops.
    """

    apply: Pass
    exact: bool = True
    idempotent: bool = True
    measure: Measure | None = None


def check_pass(case: PassCase, program: Program) -> None:
    """Properties 1 to 7 and 9 of one pass on one program."""
    with dialect():
        module = program.parse()
        signature, size = signatures(module), case.measure(module) if case.measure else 0
        case.apply(module)
        verify(module)
        text = print_module(module)
        assert signatures(module) == signature
        assert case.measure is None or case.measure(module) <= size
        assert print_module(parse(text)) == text
        assert _applied(case, program.text) == text
        if case.idempotent:
            assert _applied(case, text) == text
        _check_meaning(case.exact, program, module)
        _check_specialization(case, program, module)


def check_orders(passes: Sequence[Pass], program: Program) -> None:
    """Property 8: `passes`, in this order, keep the meaning; every stage verifies."""
    with dialect():
        module = program.parse()
        signature = signatures(module)
        for step in passes:
            step(module)
            verify(module)
        assert signatures(module) == signature
        _check_meaning(False, program, module)


def signatures(module: mlir.Module) -> dict[str, tuple[object, ...]]:
    """Of each entry point: typed inputs, donations, typed results, facts about symbols."""
    return {
        name: (
            [(n, str(type_of(v))) for n, v in f.inputs.items()],
            f.donated,
            [(n, str(type_of(v))) for n, v in f.results.items()],
            f.dims,
        )
        for name, f in public_functions(module).items()
        if name != PREPARE
    }


def _applied(case: PassCase, text: str) -> str:
    module = parse(text)
    case.apply(module)
    return print_module(module)


def _check_meaning(exact: bool, program: Program, after: mlir.Module) -> None:
    """Property 2."""
    before = program.parse()
    losses = {name: 0.0 for name in result_types(before)}
    if not exact:
        measured = (program.losses(before), program.losses(after))
        assume(None not in measured)
        losses = {name: max(m[name] for m in measured if m is not None) for name in losses}
    wanted, found = program.run(before), program.run(after)
    for name, type_ in result_types(before).items():
        if exact:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        else:
            assert_close(found[name], wanted[name], type_.dtype, losses[name])


def _check_specialization(case: PassCase, program: Program, after: mlir.Module) -> None:
    """Property 7."""
    first = program.parse()
    specialize(first, program.dims)
    verify(first)
    case.apply(first)
    verify(first)
    specialize(after, program.dims)
    verify(after)
    _check_meaning(case.exact, program, first)
    _check_meaning(case.exact, program, after)
