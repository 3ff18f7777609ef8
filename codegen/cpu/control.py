"""Structured control flow over scf: loops, loops that carry values, branches.

Bodies are Python: a `with` block where nothing comes out, a function where values do. Bounds are i64 values or Python
ints; bodies run zero times when `lower >= upper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mlir import ir
from mlir.dialects import scf

from warploom.codegen.cpu.values import Operand, Value, index


@contextmanager
def loop(lower: Operand, upper: Operand, step: Operand = 1) -> Iterator[Value]:
    """The body runs for index = lower, lower + step, ... below upper; yields the index (i64)."""
    op = scf.ForOp(index(lower).ssa, index(upper).ssa, index(step).ssa)
    with ir.InsertionPoint(op.body):
        yield Value(op.induction_variable, "i64")
        scf.YieldOp([])


def carry(
    lower: Operand,
    upper: Operand,
    initial: Sequence[Value],
    body: Callable[..., Sequence[Value]],
    step: Operand = 1,
) -> list[Value]:
    """A loop with state: `body(index, *state)` returns the next state; the last state comes back.

    State lives in registers: the accumulators of a reduction belong here, not in memory.
    """
    op = scf.ForOp(index(lower).ssa, index(upper).ssa, index(step).ssa, [value.ssa for value in initial])
    with ir.InsertionPoint(op.body):
        state = body(Value(op.induction_variable, "i64"), *_typed(op.inner_iter_args, initial))
        scf.YieldOp([value.ssa for value in state])
    return _typed(op.results, initial)


@contextmanager
def when(condition: Value) -> Iterator[None]:
    """The body runs where the scalar i1 `condition` holds."""
    op = scf.IfOp(condition.ssa)
    with ir.InsertionPoint(op.then_block):
        yield
        scf.YieldOp([])


def carry_if(condition: Value, initial: Sequence[Value], body: Callable[..., Sequence[Value]]) -> list[Value]:
    """`body(*initial)` where the scalar i1 `condition` holds, else `initial` unchanged."""
    op = scf.IfOp(condition.ssa, [value.ssa.type for value in initial], has_else=True)
    with ir.InsertionPoint(op.then_block):
        scf.YieldOp([value.ssa for value in body(*initial)])
    with ir.InsertionPoint(op.regions[1].blocks[0]):
        scf.YieldOp([value.ssa for value in initial])
    return _typed(op.results_, initial)


def carry_while(
    initial: Sequence[Value], condition: Callable[..., Value], body: Callable[..., Sequence[Value]]
) -> list[Value]:
    """state = body(*state) while the scalar i1 `condition(*state)` holds; the last state comes back."""
    types = [value.ssa.type for value in initial]
    op = scf.WhileOp(types, [value.ssa for value in initial])
    before, after = op.before.blocks.append(*types), op.after.blocks.append(*types)
    with ir.InsertionPoint(before):
        scf.ConditionOp(condition(*_typed(before.arguments, initial)).ssa, before.arguments)
    with ir.InsertionPoint(after):
        scf.YieldOp([value.ssa for value in body(*_typed(after.arguments, initial))])
    return _typed(op.results, initial)


def _typed(results: Sequence[ir.Value], template: Sequence[Value]) -> list[Value]:
    return [Value(ssa, value.element, value.lanes) for ssa, value in zip(results, template, strict=True)]
