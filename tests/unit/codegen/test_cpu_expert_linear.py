"""The kernel of chosen experts against its numpy meaning, and alone against among others: the latter bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.expert_linear import ExpertLinearSpec
from warploom.ir.ops.experts import expert_linear

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}


@on_every_isa
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n", "k"), [(1, 5), (37, 48), (64, 100)])
def test_expert_linear_is_its_meaning(n: int, k: int, shared: bool, dtype: str, isa: Isa) -> None:
    count, choices, tokens = 5, 3, 7
    rng = np.random.default_rng(n)
    weight = rng.standard_normal((count * n, k)).astype(DTYPES[dtype])
    x = rng.standard_normal((tokens, 1 if shared else choices, k)).astype(np.float32)
    experts = rng.integers(0, count, (tokens, choices)).astype(np.int32)
    experts[0] = [-1, count, 2**31 - 1]
    kernel = compiled(ExpertLinearSpec(count, n, k, choices, shared, dtype), isa)
    y = np.full((tokens, choices, n), np.nan, np.float32)
    kernel([x, experts, weight, y], {"T": tokens}, threads=2)
    meaning = expert_linear.evaluate(x.astype(np.float64), experts, weight, n=n)
    np.testing.assert_allclose(y, meaning, rtol=0, atol=1e-6 * k)
    alone = np.full((1, choices, n), np.nan, np.float32)
    kernel([x[3:4], experts[3:4], weight, alone], {"T": 1}, threads=2)
    np.testing.assert_array_equal(alone, y[3:4])
