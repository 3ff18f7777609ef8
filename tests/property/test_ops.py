"""Every op keeps its own promises: inference, meaning and decomposition agree on generated operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlir.ir as mlir
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.property.programs import RUNNABLE_OPS, Program, dialect, programs
from tests.tolerances import assert_close
from warploom.ir.context import parse, print_module
from warploom.ir.expand import expand
from warploom.ir.function import Function, functions
from warploom.ir.op import OPS, Op, op_of
from warploom.ir.rewrite import replace
from warploom.ir.types import type_of
from warploom.ir.verify import verify

COMPOSITES = [name for name in RUNNABLE_OPS if OPS[name].decompose is not None]


@pytest.mark.parametrize("name", RUNNABLE_OPS)
@given(data=st.data())
def test_meaning_has_the_inferred_type(name: str, data: st.DataObject) -> None:
    program = data.draw(programs(ops=[name], motifs=(), max_steps=2))
    with dialect():
        module = program.parse()
        step = functions(module)["step"]
        assert f"wl.{name}" in {op.name for op in step.ops}
        results = program.run(module)  # the interpreter compares every value with its type
        for key, value in step.results.items():
            wanted = type_of(value)
            assert results[key].shape == wanted.resolve(program.dims)
            assert results[key].dtype == wanted.dtype.numpy


@pytest.mark.parametrize("name", RUNNABLE_OPS)
@given(data=st.data())
def test_rebuilding_from_decoded_attributes_gives_the_same_text(name: str, data: st.DataObject) -> None:
    program = data.draw(programs(ops=[name], motifs=(), max_steps=1))
    with dialect():
        module = program.parse()
        for operation in functions(module)["step"].ops:
            rebuild(operation, lambda op, values, attrs: op(*values, **attrs))
        assert print_module(module) == program.text


@pytest.mark.parametrize("name", COMPOSITES)
@given(data=st.data())
def test_decomposition_means_the_same(name: str, data: st.DataObject) -> None:
    program = data.draw(programs(ops=[name], motifs=(), max_steps=1))
    with dialect():
        module = program.parse()
        losses = program.losses(module)
        assume(losses is not None)
        assert losses is not None
        whole = program.run(module)
        decompose_all(functions(module)["step"], name)
        verify(module)
        widened = program.losses(module)
        assume(widened is not None)
        assert widened is not None
        parts = program.run(module)
        for key, value in functions(module)["step"].results.items():
            assert_close(parts[key], whole[key], type_of(value).dtype, max(losses[key], widened[key]))


@given(programs())
def test_text_round_trip_is_exact(program: Program) -> None:
    with dialect():
        module = program.parse()
        verify(module)
        assert print_module(module) == program.text
        assert print_module(parse(print_module(module))) == program.text


@given(programs())
def test_programs_do_not_hang_on_rounding(program: Program) -> None:
    """Double precision agrees with single precision on most programs: the oracle has something to say."""
    with dialect():
        module = program.parse()
        losses = program.losses(module)
        assume(losses is not None)
        assert losses is not None
        assert all(np.isfinite(loss) for loss in losses.values())


def rebuild(operation: mlir.Operation, build: Callable[[Op, list[mlir.Value], dict[str, Any]], Any]) -> None:
    """Replace an op by what `build` makes of its spec, operands and attributes."""
    op = op_of(operation)
    assert op is not None
    with mlir.InsertionPoint(operation), operation.location:
        made = build(op, list(operation.operands), op.attrs_of(operation))
    replace(operation, made if isinstance(made, tuple) else () if made is None else (made,))


def decompose_all(function: Function, name: str) -> None:
    """Replace each op of that name by its decomposition."""
    for operation in function.ops:
        if op_of(operation) is OPS[name]:
            rebuild(operation, expand)


def test_every_op_is_generated_or_has_no_meaning_of_its_own() -> None:
    stored = {"checkpoint", "param", "export"}  # their meaning is the loader's
    assert set(RUNNABLE_OPS) == OPS.keys() - stored
