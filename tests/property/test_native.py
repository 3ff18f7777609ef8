"""Generated programs through the whole CPU pipeline: native code of every ISA level equals the interpreter."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, seed, settings

from tests.property.programs import Program, dialect, programs, result_types
from tests.tolerances import assert_close
from warploom.codegen.cpu.driver import compile_entries
from warploom.codegen.cpu.executor import NativeModule
from warploom.codegen.cpu.isa import LEVELS
from warploom.codegen.cpu.target import CPU
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate_exports, loader
from warploom.ir.types import TensorType
from warploom.passes.pipeline import pipeline, run
from warploom.runtime.machine import cpu_features

RUNNABLE = [isa for isa in LEVELS if cpu_features().issuperset(isa.features)]
SHARES = 8  # of the programs, one test each, for test processes to share
EXAMPLES = 25  # of a share


def native_results(program: Program) -> list[dict[str, np.ndarray]]:
    """What each runnable ISA level computes."""
    with dialect(), TemporaryDirectory() as folder:
        module = program.parse()
        assert list(run(module, pipeline(CPU, "f32")))
        product = compile_entries(module, RUNNABLE, Path(folder))
        has_weights = "prepare" in functions(module)
        params = dict(evaluate_exports(module, loader(program.checkpoint))) if has_weights else {}
        results = []
        for library in product.libraries.values():
            with NativeModule(product.plan, library, product.scratch_bytes) as native:
                results.append(native.run("step", program.inputs, params))
        return results


def expectation(program: Program) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, TensorType]] | None:
    """What the interpreter computes, what single precision lost, and types; None if a decision hangs on rounding."""
    with dialect():
        module = program.parse()
        losses = program.losses(module)
        return None if losses is None else (program.run(module), losses, result_types(module))


@pytest.mark.parametrize("share", range(SHARES))
def test_native_code_means_what_the_interpreter_says(share: int) -> None:
    @seed(share)
    @settings(max_examples=EXAMPLES)
    @given(program=programs())
    def check(program: Program) -> None:
        # A token_major cache has no CPU kernel: its write is expanded, and a donated cache would be copied.
        assume("token_major" not in program.text or "wl.donated" not in program.text)
        # Numbers of four bits are made when weights are prepared, never in a step: no kernel makes them.
        assume("wl.quantize_mxfp4" not in program.text)
        found = expectation(program)
        assume(found is not None)
        assert found is not None
        expected, losses, types = found
        for actual in native_results(program):
            for name, value in expected.items():
                assert_close(actual[name], value, types[name].dtype, losses[name])

    check()
