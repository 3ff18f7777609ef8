"""Dummy weights: products with them are of the size of real ones, whatever the weights are stored as."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.passes.tiny_llama import LAYERS, traced
from warploom.codegen.cpu.target import CPU
from warploom.codegen.parameters import exports
from warploom.codegen.random_params import random_params
from warploom.ir.function import FunctionBuilder
from warploom.ir.ops.mxfp4 import dequantize_mxfp4, quantize_mxfp4
from warploom.ir.ops.parameters import checkpoint, export
from warploom.passes.pipeline import pipeline, run
from warploom.runtime.manifest import RandomParam
from warploom.runtime.noise import random_param


def made(quantization: str) -> dict[str, RandomParam]:
    module = traced()
    assert list(run(module, pipeline(CPU, quantization)))
    return random_params(dict(exports(module)), 0.02)


@pytest.mark.usefixtures("wl")
def test_gains_are_one_and_matrices_are_spread_as_asked_for() -> None:
    params = made("f32")
    norms = [p for name, p in params.items() if "norm" in name]
    assert len(norms) == 2 * LAYERS + 1
    assert all((random_param(p) == 1).all() for p in norms)
    matrices = [random_param(p) for name, p in params.items() if "norm" not in name]
    assert len({m.tobytes() for m in matrices}) == len(matrices)
    assert all(abs(m.std() - 0.02) < 0.001 for m in matrices)


@pytest.mark.usefixtures("wl")
def test_quantized_matrices_are_spread_as_asked_for() -> None:
    params = made("int8")
    scales = {name: p for name, p in params.items() if ":scale" in name}
    assert len(scales) == 4 * LAYERS + 1
    for name, scale in scales.items():
        (numbers,) = (p for other, p in params.items() if other.startswith(name.partition(":scale")[0] + ":q"))
        weight = random_param(numbers)
        assert (weight.min(), weight.max()) == (-127, 127)
        scales_of_rows = random_param(scale)
        assert scales_of_rows.dtype == np.float32
        assert len(np.unique(scales_of_rows)) == 1
        assert abs((weight * scales_of_rows.flat[0]).std() - 0.02) < 0.001


@pytest.mark.usefixtures("wl")
def test_offsets_shift_nothing() -> None:
    offsets = {name: p for name, p in made("int4:g32:zeros").items() if ":offset" in name}
    assert offsets
    assert all((random_param(offset) == 0).all() for offset in offsets.values())


@pytest.mark.usefixtures("wl")
def test_mxfp4_experts_are_spread_as_asked_for() -> None:
    """As far as a power of two can be."""
    module = mlir.Module.create()
    prepare = FunctionBuilder(module, "prepare", {})
    with prepare.point:
        for part, value in zip("qs", quantize_mxfp4(checkpoint(name="w", shape=(512, 64), dtype="bf16")), strict=True):
            export(value, name=part)
    prepare.finish({})
    params = random_params(dict(exports(module)), 0.02)
    spread = dequantize_mxfp4.evaluate(random_param(params["q"]), random_param(params["s"])).std()
    assert 0.02 / 2**0.5 < spread < 0.02 * 2**0.5
