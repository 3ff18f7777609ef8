"""The kernel of quantized experts against its numpy meaning, and alone against among others: the latter bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.quantized_expert_linear import QuantizedExpertLinearSpec
from warploom.ir.ops.experts import quantized_expert_linear

SIDES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}


@on_every_isa
@pytest.mark.parametrize(
    ("n", "k", "weight", "groups", "side", "offset"),
    [
        (37, 48, "i8", 1, "f32", False),
        (5, 37, "i8", 1, "f32", True),
        (18, 100, "f8e4m3", 1, "f32", False),
        (9, 96, "i8", 3, "f16", True),
        (18, 128, "i4", 4, "f16", False),
        (7, 96, "i4", 3, "f16", True),
        (5, 320, "i4", 5, "f32", False),
    ],
)
def test_quantized_experts_are_their_meaning(
    n: int, k: int, weight: str, groups: int, side: str, offset: bool, isa: Isa
) -> None:
    count, choices, tokens = 5, 3, 4
    rng = np.random.default_rng(n)
    stored = k // 2 if weight == "i4" else k
    q = rng.integers(-128, 128, (count * n, stored), np.int8)
    if weight == "f8e4m3":
        q = rng.uniform(-100, 100, (count * n, stored)).astype(ml_dtypes.float8_e4m3fn)
    sides = [rng.uniform(0.01, 0.1, (count * n, groups)).astype(SIDES[side]) for _ in range(1 + offset)]
    x = rng.standard_normal((tokens, choices, k)).astype(np.float32)
    experts = rng.integers(0, count, (tokens, choices)).astype(np.int32)
    experts[0] = [-1, count, 2**31 - 1]
    kernel = compiled(QuantizedExpertLinearSpec(count, n, k, choices, False, weight, groups, side, offset), isa)
    y = np.full((tokens, choices, n), np.nan, np.float32)
    kernel([x, experts, q, *sides, y], {"T": tokens}, threads=2)
    layout = "row4" if weight == "i4" else "row"
    meaning = quantized_expert_linear.evaluate(x.astype(np.float64), experts, q, *sides, n=n, layout=layout)
    np.testing.assert_allclose(y, meaning, rtol=1e-5, atol=1e-6 * k * np.abs(meaning).max())
    alone = np.full((1, choices, n), np.nan, np.float32)
    kernel([x[3:4], experts[3:4], q, *sides, alone], {"T": 1}, threads=2)
    np.testing.assert_array_equal(alone, y[3:4])
