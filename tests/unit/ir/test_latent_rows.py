"""Latent rows of 8-bit caches: what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from warploom.ir.ops.latent_attention import latent_write
from warploom.ir.ops.latent_rows import read_rows, row_size
from warploom.ir.types import DType

PAGE, PAGES = 16, 3


def written(dtype: DType, latent: np.ndarray, key: np.ndarray) -> np.ndarray:
    """What rows of tokens are in a cache."""
    kv = np.zeros((1, PAGES, 1, 1, PAGE * row_size(latent.shape[1], key.shape[1], dtype)), dtype.numpy)
    slots = np.arange(len(latent), dtype=np.int32)
    kv = latent_write.evaluate(kv, latent, key, slots, layer=0, page_size=PAGE)
    rows = read_rows(kv, 0, latent.shape[1], key.shape[1], np.arange(PAGES), PAGE, np.dtype(np.float32))
    return rows[: len(latent)]


@pytest.mark.parametrize("dtype", [DType.F8, DType.I8])
def test_a_row_keeps_its_digits_whatever_its_size_and_that_of_other_runs(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([[1, 2**6, 2**-3, 2**-12, 2**9]], np.float32) * np.array([[1], [2**3], [2**-2]], np.float32)
    runs = rng.uniform(0.5, 1, (3, 5, 128)) * rng.choice([-1, 1], (3, 5, 128)) * sizes[..., None]
    row = runs.reshape(3, 640)[:, :576].astype(np.float32)
    found = written(dtype, row[:, :512], row[:, 512:])
    np.testing.assert_allclose(found, row, rtol=2**-4 if dtype is DType.F8 else 2**-6)


def test_a_large_number_of_a_run_costs_int8_the_small_ones_of_that_run_alone() -> None:
    row = np.full((1, 512), 0.01, np.float32)
    row[0, 200] = 40
    found = written(DType.I8, row, row[:, :64])[0]
    assert (np.abs(found[128:256] - row[0, 128:256]) < 0.5).all()
    assert found[129] == 0
    np.testing.assert_allclose(np.delete(found, np.arange(128, 256)), 0.01, rtol=2**-6)


def test_f8_saturates_beyond_its_largest_power() -> None:
    found = written(DType.F8, np.array([[1e9, -1e9] + [1.0] * 14], np.float32), np.zeros((1, 16), np.float32))
    assert found[0, :2].tolist() == [448 * 128, -448 * 128]
    assert found[0, 2] == 1
