"""Weights of an artifact for several targets: packed once where targets agree, never one for the other."""

from __future__ import annotations

from functools import partial

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.passes.tiny_llama import CACHE, CONFIG, LIMITS, random_tensors, traced
from warploom.codegen.cpu.target import CPU
from warploom.codegen.parameters import Parameters, exports
from warploom.errors import CompileError
from warploom.frontend.tensors import require
from warploom.frontend.trace import trace
from warploom.ir.interpreter import evaluate_exports
from warploom.ir.target import Target
from warploom.passes.pipeline import pipeline, run

ROWS = Target(name="rows", refuses=CPU.refuses, layout=lambda operation, feeds_swiglu: "row")


def packed(target: Target, module: mlir.Module | None = None) -> mlir.Module:
    module = traced() if module is None else module
    assert list(run(module, pipeline(target, "bf16")))
    return module


@pytest.mark.usefixtures("wl")
def test_targets_that_pack_alike_share_everything() -> None:
    parameters = Parameters()
    first, again = packed(ROWS), packed(ROWS)
    assert list(parameters.add(first)) == [name for name, _ in exports(first)]
    assert parameters.add(again) == {}


@pytest.mark.usefixtures("wl")
def test_only_what_is_packed_otherwise_is_added() -> None:
    parameters = Parameters()
    parameters.add(packed(CPU))
    module = packed(ROWS)
    added = parameters.add(module)
    assert not any("norm" in name for name in added)
    tensors = random_tensors(CONFIG)
    arrays = dict(evaluate_exports(module, lambda name: tensors[name].load(), added))
    assert arrays.keys() == added.keys()
    name = "model.layers.0.mlp.down_proj.weight:bf16"
    expected = tensors[name.removesuffix(":bf16")].load()
    np.testing.assert_allclose(arrays[name].astype(np.float32), expected, rtol=2**-8)


@pytest.mark.usefixtures("wl")
def test_one_name_for_two_computations_is_refused() -> None:
    parameters = Parameters()
    parameters.add(packed(ROWS))
    other = {**CONFIG, "vocab_size": 200}
    module = trace(other, partial(require, random_tensors(other)), CACHE, LIMITS)
    with pytest.raises(CompileError, match=r"two targets pack the parameter 'model\.embed_tokens"):
        parameters.add(packed(ROWS, module))
