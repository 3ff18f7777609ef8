"""The LayerNorm kernel against its numpy meaning."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.layer_norm import LayerNormSpec
from warploom.ir.ops.norm import layer_norm

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}


@on_every_isa
@pytest.mark.parametrize("spec", [
    LayerNormSpec(5, 1, "f32", "", 1e-5),
    LayerNormSpec(80, 1, "bf16", "bf16", 1e-5),
    LayerNormSpec(768, 1, "f32", "f32", 1e-5),
    LayerNormSpec(24, 3, "f32", "", 1e-3),
    LayerNormSpec(64, 2, "bf16", "f32", 1e-5),
], ids=lambda spec: spec.name)  # fmt: skip
def test_layer_norm_is_its_meaning(spec: LayerNormSpec, isa: Isa) -> None:
    rng = np.random.default_rng(spec.columns)
    tokens, shape = 4, (spec.heads, spec.columns)
    scales = np.logspace(-3, 3, tokens * spec.heads, dtype=np.float32)[:, None]
    x = (rng.standard_normal((tokens * spec.heads, spec.columns), np.float32) + 2) * scales
    weight = rng.uniform(0.5, 1.5, shape).astype(DTYPES[spec.weight])
    bias = [rng.standard_normal(shape).astype(DTYPES[spec.bias])] if spec.bias else []
    kernel, y = compiled(spec, isa), np.full_like(x, np.nan)
    kernel([x, weight, *bias, y], {"T": len(x)}, threads=2)
    wide = (array.astype(np.float64) for array in (weight, *bias))
    expected = layer_norm.evaluate(x.reshape(tokens, *shape).astype(np.float64), *wide, eps=spec.eps)
    np.testing.assert_allclose(y, expected.reshape(y.shape), rtol=3e-5, atol=1e-6)
    alone = np.empty_like(x[: spec.heads])
    kernel([np.ascontiguousarray(x[spec.heads : 2 * spec.heads]), weight, *bias, alone], {"T": spec.heads})
    np.testing.assert_array_equal(alone, y[spec.heads : 2 * spec.heads])
