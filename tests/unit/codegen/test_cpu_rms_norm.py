"""The stand-alone RMSNorm kernel against its numpy meaning."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.rms_norm import RmsNormSpec
from warploom.ir.ops.norm import rms_norm


@on_every_isa
@pytest.mark.parametrize("weight_dtype", ["f32", "bf16"])
@pytest.mark.parametrize("columns", [5, 64, 576, 1000])
def test_rms_norm_is_its_meaning(columns: int, weight_dtype: str, isa: Isa) -> None:
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((7, columns), np.float32) * np.logspace(-4, 4, 7, dtype=np.float32)[:, None]
    weight = rng.uniform(0.5, 1.5, columns).astype(np.float32 if weight_dtype == "f32" else ml_dtypes.bfloat16)
    kernel, y = compiled(RmsNormSpec(columns, weight_dtype, 1e-5), isa), np.full_like(x, np.nan)
    kernel([x, weight, y], {"T": 7}, threads=2)
    expected = rms_norm.evaluate(x.astype(np.float64), weight.astype(np.float64), eps=1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    alone = np.empty_like(x[:1])
    kernel([np.ascontiguousarray(x[3:4]), weight, alone], {"T": 1})
    np.testing.assert_array_equal(alone[0], y[3])
