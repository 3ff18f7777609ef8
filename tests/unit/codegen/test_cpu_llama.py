"""Every native kernel in its place: all entries of a small Llama, compiled, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import on_every_isa
from tests.unit.passes.test_pipeline_on_llama import step_inputs
from tests.unit.passes.tiny_llama import CONFIG, random_tensors, traced
from warploom.codegen.cpu.driver import compile_entries
from warploom.codegen.cpu.executor import NativeModule
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.target import CPU
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.passes.pipeline import pipeline, run

Arrays = dict[str, np.ndarray]


def sample_inputs() -> Arrays:
    """Rows of every kind: greedy, penalized, biased, truncated."""
    rng = np.random.default_rng(2)
    rows, vocab_size = 6, CONFIG["vocab_size"]
    floats = {
        "logits": rng.standard_normal((rows, vocab_size)) * 3,
        "temperature": [0, 0, 0.7, 1, 1, 1.3],
        "top_p": [1, 1, 1, 0.8, 1, 0.9],
        "min_p": [0, 0, 0, 0, 0.1, 0.01],
        "repetition_penalty": [1, 1.3, 1, 1, 1.1, 1],
        "presence_penalty": [0, 0.5, 0, 0, 0, 0.2],
        "frequency_penalty": [0, 0.1, 0, 0, 0, 0.3],
        "bias_values": rng.choice([-np.inf, 2.0], (rows, 2)),
    }
    ints = {
        "top_k": [0, 0, 5, 0, 0, 30],
        "seeds": rng.integers(-(2**31), 2**31, (rows, 2)),
        "sample_positions": np.arange(rows),
        "penalty_tokens": np.tile([3, 50, -1], (rows, 1)),
        "penalty_counts": np.tile([2, 0, 0], (rows, 1)),
        "bias_tokens": np.tile([-1, 7], (rows, 1)),
        "banned_bits": np.array([[0], [0b10010], [-2], [0], [0b1010], [0]]),
    }
    typed = {name: np.asarray(value, np.float32) for name, value in floats.items()}
    return typed | {name: np.asarray(value, np.int32) for name, value in ints.items()}


def logprobs_inputs() -> Arrays:
    return {"logits": sample_inputs()["logits"]}


INPUTS: dict[str, Callable[[], Arrays]] = {
    "step": step_inputs,
    "sample": sample_inputs,
    "logprobs": logprobs_inputs,
}

NATIVE = {"linear", "rope_kv_write", "attention", "embed", "sample", "top_logprobs"}


@on_every_isa
@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("quantization", ["f32", "bf16", "int8"])
def test_native_entries_do_what_the_interpreter_does(quantization: str, isa: Isa, tmp_path: Path) -> None:
    tensors, module = random_tensors(CONFIG), traced()
    for _ in run(module, pipeline(CPU, quantization)):
        pass
    params = dict(evaluate_exports(module, lambda name: tensors[name].load()))
    product = compile_entries(module, [isa], tmp_path)
    assert {kernel.kind for kernel in product.plan.kernels.values()} >= NATIVE  # none of these was decomposed
    with NativeModule(product.plan, product.libraries[isa], product.scratch_bytes, threads=2) as native:
        for entry, make in INPUTS.items():
            inputs = make()
            expected, actual = evaluate(module, entry, inputs, params), native.run(entry, inputs, params)
            for name, value in expected.items():
                np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=2e-5, err_msg=f"@{entry} {name}")
