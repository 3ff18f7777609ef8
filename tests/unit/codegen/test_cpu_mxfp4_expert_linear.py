"""The kernel of MXFP4 experts against its numpy meaning, and alone against among others: the latter bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import RUNNABLE, compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.mxfp4_expert_linear import Mxfp4ExpertLinearSpec
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear

SIZES = [(1, 32), (37, 96), (18, 64), (9, 128), (8, 384), (5, 2880)]


def weight_of(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Any numbers, scales from 2^-4 to 2^-1."""
    return rng.integers(-128, 128, (n, k // 2), np.int8), rng.integers(123, 127, (n, k // 32), np.int8)


@on_every_isa
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_mxfp4_expert_linear_is_its_meaning(n: int, k: int, shared: bool, isa: Isa) -> None:
    count, choices, tokens = 5, 3, 4
    rng = np.random.default_rng(n)
    weight = weight_of(rng, count * n, k)
    x = rng.standard_normal((tokens, 1 if shared else choices, k)).astype(np.float32)
    experts = rng.integers(0, count, (tokens, choices)).astype(np.int32)
    experts[0] = [-1, count, 2**31 - 1]
    kernel = compiled(Mxfp4ExpertLinearSpec(count, n, k, choices, shared, "mxfp4"), isa)
    y = np.full((tokens, choices, n), np.nan, np.float32)
    kernel([x, experts, *weight, y], {"T": tokens}, threads=2)
    meaning = mxfp4_expert_linear.evaluate(x.astype(np.float64), experts, *weight, n=n)
    np.testing.assert_allclose(y, meaning, rtol=1e-6, atol=1e-6 * k)
    alone = np.full((1, choices, n), np.nan, np.float32)
    kernel([x[3:4], experts[3:4], *weight, alone], {"T": 1}, threads=2)
    np.testing.assert_array_equal(alone, y[3:4])


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_levels_agree_to_the_bit(n: int, k: int) -> None:
    rng = np.random.default_rng(k)
    weight, x = weight_of(rng, 2 * n, k), rng.standard_normal((3, 1, k)).astype(np.float32)
    experts = np.array([[0], [1], [0]], np.int32)
    results = []
    for isa in RUNNABLE:
        y = np.full((3, 1, n), np.nan, np.float32)
        compiled(Mxfp4ExpertLinearSpec(2, n, k, 1, True, "mxfp4"), isa)([x, experts, *weight, y], {"T": 3})
        results.append(y)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
