"""Random parameters: finite, nonzero, spread as asked for, the same wherever they are made."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from warploom.errors import ArtifactError
from warploom.runtime import noise
from warploom.runtime.manifest import RandomParam
from warploom.runtime.noise import BLOCK, noise_block, noise_start, random_param


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("bf16", ml_dtypes.bfloat16), ("f16", np.float16), ("f32", np.float32)]
)
def test_floats_are_uniform_around_their_mean(dtype: str, numpy_dtype: type) -> None:
    values = random_param(RandomParam([500, 640], dtype, 1.0, 0.5, 3)).view(numpy_dtype).astype(np.float64)
    assert values.shape == (500, 640)
    assert 0.5 <= values.min() < 0.501
    assert 1.499 < values.max() <= 1.5
    assert abs(values.mean() - 1) < 0.002
    assert abs(values.std() - 0.5 / 3**0.5) < 0.002


@pytest.mark.parametrize(
    ("dtype", "mean", "scale", "ends"), [("i8", 0.0, 127.0, (-127, 127)), ("u8", 127.5, 127.5, (0, 255))]
)
def test_integers_reach_both_ends(dtype: str, mean: float, scale: float, ends: tuple[int, int]) -> None:
    values = random_param(RandomParam([1000, 640], dtype, mean, scale, 0))
    assert values.dtype == np.dtype(np.int8 if dtype == "i8" else np.uint8)
    assert (values.min(), values.max()) == ends


@pytest.mark.parametrize("scale", [448.0, 2**-6, 1000.0])
def test_eight_bit_floats_are_the_nearest(scale: float) -> None:
    """Normal, subnormal and saturated."""
    exact = random_param(RandomParam([300, 64], "f32", 0.0, scale, 2))
    expected = np.clip(exact, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    found = random_param(RandomParam([300, 64], "f8e4m3", 0.0, scale, 2))
    np.testing.assert_array_equal(found.view(ml_dtypes.float8_e4m3fn), expected)


def test_seeds_give_other_stretches_and_rows_do_not_repeat() -> None:
    starts = {noise_start(seed) for seed in range(1000)}
    assert len(starts) == 1000
    assert all(0 <= start < BLOCK and start % 64 == 0 for start in starts)
    matrix = random_param(RandomParam([4096, 128], "bf16", 0.0, 0.02, 5))
    assert len(np.unique(matrix, axis=0)) == 4096
    assert (matrix & 0x7FFF != 0).mean() > 0.9999


def test_no_spread_gives_a_constant() -> None:
    assert (random_param(RandomParam([70, 3], "f32", 1.5, 0.0, 3)) == 1.5).all()
    assert (random_param(RandomParam([70], "bf16", 1.0, 0.0, 3)) == 0x3F80).all()


def test_a_parameter_longer_than_the_block_goes_on_from_its_start() -> None:
    values = random_param(RandomParam([BLOCK + 100], "i8", 0.0, 127.0, 1))
    np.testing.assert_array_equal(values[:100], values[BLOCK:])


def test_dtypes_without_noise_are_refused() -> None:
    with pytest.raises(ArtifactError, match="unknown dtype"):
        noise_block("i64", 0.0, 1.0)


def test_parameters_of_a_kind_come_from_one_block() -> None:
    noise._block.cache_clear()
    for seed in range(3):
        random_param(RandomParam([64, 64], "bf16", 0.0, 0.5, seed))
    assert noise._block.cache_info().misses == 1
