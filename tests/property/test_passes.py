"""Every pass of the pipeline on generated programs: at least 200 each in CI, more by `tools/nightly`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.corner_motifs import CORNERS
from tests.property.format_motifs import FORMATS
from tests.property.motifs import MOTIFS, by_head, mlp, tied_head
from tests.property.pass_cases import (
    ANY_ORDER,
    CASES,
    EXAMPLES,
    FORMAT_CASES,
    PIPELINES,
    head_bytes,
    run_time_weight_ops,
    weight_bytes,
)
from tests.property.pass_properties import Pass, PassCase, check_orders, check_pass
from tests.property.programs import Program, dialect, programs
from tests.targets import EAGER, MODEST, UNABLE
from warploom.ir.rewrite import entries
from warploom.ir.target import Target
from warploom.ir.types import DType
from warploom.passes.hoist_weights import hoist_weights
from warploom.passes.narrow_weights import narrow_weights
from warploom.passes.pipeline import pipeline
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_heads import quantize_heads
from warploom.passes.quantize_weights import quantize_weights


def on_int8_grid(program: Program) -> Program:
    """Weight matrices whose rows are k * 2^-9 with max |k| = 127: int8 and bf16 hold them exactly."""

    def snapped(weight: np.ndarray) -> np.ndarray:
        wide = weight.astype(np.float32)
        steps = np.rint(wide / np.abs(wide).max(-1, keepdims=True) * 127)
        return (steps / 512).astype(weight.dtype) if weight.ndim == 2 else weight

    return replace(program, checkpoint={name: snapped(w) for name, w in program.checkpoint.items()})


LOSSY = {
    "narrow_weights_bf16": PassCase(partial(narrow_weights, dtype=DType.BF16), measure=weight_bytes),
    "quantize_weights": PassCase(partial(quantize_weights, rules=Rules("int8")), measure=weight_bytes),
    "quantize_heads": PassCase(
        partial(quantize_heads, rules=Rules("int8"), target=replace(EAGER, scaled_heads=True)), measure=head_bytes
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=EXAMPLES)
@given(program=programs(motifs=MOTIFS + CORNERS))
def test_pass_keeps_its_promises(name: str, program: Program) -> None:
    check_pass(CASES[name], program)


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=EXAMPLES)
@given(program=programs(ops=(), motifs=(mlp, tied_head, by_head)).map(on_int8_grid))
def test_narrower_weights_lose_nothing_that_they_can_hold(name: str, program: Program) -> None:
    check_pass(LOSSY[name], program)


@settings(max_examples=EXAMPLES)
@given(program=programs())
def test_hoisting_leaves_no_work_on_weights_at_run_time(program: Program) -> None:
    with dialect():
        module = program.parse()
        hoist_weights(module)
        assert run_time_weight_ops(module) == 0


@settings(max_examples=EXAMPLES)
@given(program=programs(), order=st.permutations(ANY_ORDER))
def test_any_order_of_passes_means_the_same(program: Program, order: list[Pass]) -> None:
    check_orders(order, program)


@pytest.mark.parametrize("name", FORMAT_CASES)
@settings(max_examples=EXAMPLES)
@given(program=programs(ops=(), motifs=FORMATS, max_steps=2))
def test_passes_that_change_formats_keep_their_promises(name: str, program: Program) -> None:
    check_pass(FORMAT_CASES[name], program)


@pytest.mark.parametrize("target", [EAGER, MODEST, UNABLE], ids=lambda t: t.name)
@settings(max_examples=EXAMPLES)
@given(program=programs())
def test_the_whole_pipeline_means_the_same(target: Target, program: Program) -> None:
    check_orders(pipeline(target, "f32"), program)


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=max(1, EXAMPLES // 5))
@given(program=programs())
def test_the_whole_pipeline_keeps_the_promises_of_a_pass(name: str, program: Program) -> None:
    check_pass(PIPELINES[name], program)


@pytest.mark.parametrize("target", [EAGER, UNABLE], ids=lambda t: t.name)
@settings(max_examples=EXAMPLES)
@given(program=programs())
def test_after_the_pipeline_entries_hold_parameters_views_and_calls(target: Target, program: Program) -> None:
    with dialect():
        module = program.parse()
        for step in pipeline(target, "f32"):
            step(module)
        left = {op.name for f in entries(module) for op in f.ops}
        assert left <= {"wl.param", "wl.reshape", "func.call"}
