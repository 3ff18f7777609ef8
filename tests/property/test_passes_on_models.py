"""Every pass of the pipeline on models that were tampered with, see `pass_properties`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.property.model_graphs import model_programs
from tests.property.pass_cases import ANY_ORDER, CASES, MODELS
from tests.property.pass_properties import Pass, check_orders, check_pass, signatures
from tests.property.programs import Program, dialect
from tests.targets import EAGER, MODEST, UNABLE
from warploom.ir.function import functions
from warploom.ir.ops.parameters import checkpoint
from warploom.ir.rewrite import is_op
from warploom.ir.target import Target
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE, verify
from warploom.passes.pipeline import pipeline
from warploom.passes.quantization.scheme import Rules
from warploom.passes.scale_activations import scale_activations


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=MODELS)
@given(program=model_programs())
def test_pass_keeps_its_promises_on_models(name: str, program: Program) -> None:
    check_pass(CASES[name], program)


@settings(max_examples=MODELS)
@given(program=model_programs(), order=st.permutations(ANY_ORDER))
def test_any_order_of_passes_means_the_same_on_models(program: Program, order: list[Pass]) -> None:
    check_orders(order, program)


@pytest.mark.parametrize("target", [EAGER, MODEST, UNABLE], ids=lambda t: t.name)
@settings(max_examples=MODELS)
@given(program=model_programs())
def test_the_whole_pipeline_means_the_same_on_models(target: Target, program: Program) -> None:
    check_orders(pipeline(target, "f32"), program)


class AnyName(dict[str, object]):
    """Scales of whatever is asked for."""

    def __contains__(self, name: object) -> bool:
        return True


@settings(max_examples=4 * MODELS)
@given(program=model_programs(), seed=st.integers(0, 9))
def test_scaling_activations_by_powers_of_two_changes_no_bit(program: Program, seed: int) -> None:
    with dialect():
        module, rng = program.parse(), np.random.default_rng(seed)
        signature = signatures(module)
        scale_activations(module, Rules("int4:awq"), AnyName())
        verify(module)
        assert signatures(module) == signature
        made = [op for op in functions(module)[PREPARE].ops if is_op(op, checkpoint)]
        scales = {
            op.attributes["name"].value: (2.0 ** rng.integers(-3, 4, type_of(op.results[0]).resolve({}))).astype("f4")
            for op in made
            if op.attributes["name"].value not in program.checkpoint
        }
        event(f"{len(scales)} scaled")
        scaled = replace(program, checkpoint=program.checkpoint | scales).run(module)
        for name, array in program.run(program.parse()).items():
            np.testing.assert_array_equal(scaled[name], array)
