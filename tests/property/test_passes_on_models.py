"""Every pass of the pipeline on models that were tampered with, see `pass_properties`."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.model_graphs import model_programs
from tests.property.pass_cases import ANY_ORDER, CASES, MODELS
from tests.property.pass_properties import Pass, check_orders, check_pass
from tests.property.programs import Program
from tests.targets import EAGER, MODEST, UNABLE
from warploom.ir.target import Target
from warploom.passes.pipeline import pipeline


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
