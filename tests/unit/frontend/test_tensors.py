"""Numbers that are none are found in every type of float, wherever they are."""

from __future__ import annotations

import numpy as np
import pytest

from warploom.frontend.tensors import NUMPY_DTYPES, is_finite

FLOATS = ("f64", "f32", "f16", "bf16", "f8e4m3", "f8e5m2")


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_not_finite_is_found_where_numpy_finds_it(name: str) -> None:
    dtype = NUMPY_DTYPES[name]
    if dtype.itemsize > 2:
        each = np.array([0, -1.5, 1e38, np.inf, -np.inf, np.nan], dtype)
    else:
        each = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wanted = np.isfinite(each).tolist()
    assert [is_finite(each[i : i + 1]) for i in range(each.size)] == wanted


@pytest.mark.parametrize("place", [0, 1 << 18, (1 << 19) - 1])
def test_one_is_enough(place: int) -> None:
    values = np.zeros((2, 1 << 18), np.float32)
    assert is_finite(values)
    assert is_finite(values[:0])
    values.reshape(-1)[place] = -np.inf
    assert not is_finite(values)
    assert is_finite(values.view(np.int32))
