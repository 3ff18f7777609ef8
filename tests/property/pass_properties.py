"""What every pass promises, checked on one generated program.

The numbers are those of the list in the design notes (JAX, XLA, NNSmith and Tzer have the practices): the output
verifies (1) and means the same (2); the pass is idempotent (3); its output survives printing and parsing (4); entry
points keep their signature (5); a measure does not grow (6); specializing symbolic dimensions before or after makes
no difference (7); any order of passes means the same (8); the same input gives the same text (9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlir.ir as mlir
import numpy as np
from hypothesis import assume

from tests.property.programs import Program, dialect, result_types
from tests.property.specialize import specialize
from tests.tolerances import assert_close
from warploom.ir.context import parse, print_module
from warploom.ir.function import Function, functions, public_functions
from warploom.ir.interpreter import Frame, apply, evaluate_exports, loader
from warploom.ir.types import DType, type_of
from warploom.ir.verify import PREPARE, verify
from warploom.passes.donate import IN_PLACE

Pass = Callable[[mlir.Module], None]
Measure = Callable[[mlir.Module], int]


@dataclass(frozen=True)
class PassCase:
    """A pass and what it promises beyond keeping the meaning.

    Attributes:
        apply: the pass.
        before: passes that come before it in the pipeline and that it builds upon.
        exact: it changes no arithmetic, so that results agree bit for bit.
        rounds: a format that it rounds values to, or no longer does: floats agree as far as that format can tell.
        idempotent: a second run changes nothing.
        measure: what it never makes larger, such as the number of ops.
        ensures: what is wrong with its output, or None.
    """

    apply: Pass
    before: Sequence[Pass] = ()
    exact: bool = True
    rounds: DType | None = None
    idempotent: bool = True
    measure: Measure | None = None
    ensures: Callable[[mlir.Module], str | None] = lambda module: None


def check_pass(case: PassCase, program: Program) -> None:
    """All properties but 8 of one pass on one program."""
    with dialect():
        program = _prepared(case, program)
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
        assert case.ensures(module) is None
        check_in_place(program, module)
        _check_meaning(case.exact, program, module, case.rounds)
        _check_specialization(case, program, module)


def _prepared(case: PassCase, program: Program) -> Program:
    """The program as the pass finds it."""
    module = program.parse()
    for step in case.before:
        step(module)
    return replace(program, text=print_module(module))


def check_orders(passes: Sequence[Pass], program: Program) -> None:
    """Property 8: `passes`, in this order, keep the meaning; every stage verifies."""
    with dialect():
        module = program.parse()
        signature = signatures(module)
        for step in passes:
            step(module)
            verify(module)
        assert signatures(module) == signature
        check_in_place(program, module)
        _check_meaning(False, program, module)


def check_in_place(program: Program, module: mlir.Module) -> None:
    """Property 10: doing the marked writes in place changes no result, and no input that is not donated."""
    step = functions(module)["step"]
    if not any(IN_PLACE in op.attributes for f in functions(module).values() for op in f.ops):
        return
    params = dict(evaluate_exports(module, loader(program.checkpoint))) if PREPARE in functions(module) else {}
    inputs = {name: array.copy() for name, array in program.inputs.items()}
    frame = Frame(functions(module), loader(params), env=dict(program.dims))
    found = dict(zip(step.results, _run_in_place(step, [inputs[n] for n in step.inputs], frame), strict=True))
    for name, value in program.run(module).items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name} is not what it was before writing in place")
    for name in inputs.keys() - step.donated:
        np.testing.assert_array_equal(inputs[name], program.inputs[name], err_msg=f"{name} was overwritten")


def _run_in_place(function: Function, arguments: list[np.ndarray], frame: Frame) -> list[np.ndarray]:
    """As the interpreter runs a block, but marked writes overwrite their operand."""
    values = dict(zip(function.body.arguments, arguments, strict=True))
    for operation in function.ops:
        operands = [values[v] for v in operation.operands]
        if operation.name == "func.call":
            callee = frame.functions[operation.attributes["callee"].value]
            results = _run_in_place(callee, operands, frame)
        else:
            results = list(apply(operation, operands, frame))
        if IN_PLACE in operation.attributes:
            operands[0][...] = results[0]
            results = [operands[0]]
        values.update(zip(operation.results, results, strict=True))
    return [values[v] for v in function.terminator.operands]


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


def _check_meaning(exact: bool, program: Program, after: mlir.Module, rounds: DType | None = None) -> None:
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
            if rounds is None or not type_.dtype.is_float:
                assert_close(found[name], wanted[name], type_.dtype, losses[name])
            else:  # rounding a number near 1 loses half a unit in its last place
                lost = float(np.spacing(np.ones((), rounds.numpy))) / 2
                assert_close(found[name], wanted[name], rounds, max(losses[name], lost))


def _check_specialization(case: PassCase, program: Program, after: mlir.Module) -> None:
    """Property 7."""
    first = program.parse()
    specialize(first, program.dims)
    verify(first)
    case.apply(first)
    verify(first)
    specialize(after, program.dims)
    verify(after)
    _check_meaning(case.exact, program, first, case.rounds)
    _check_meaning(case.exact, program, after, case.rounds)
