"""Caches of latent rows as tests want them: given rows, in any dtype; what nobody may read is NaN, or looks strange."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from warploom.ir.ops.latent_rows import row_size, write_rows
from warploom.ir.types import DType

BF16 = np.dtype(ml_dtypes.bfloat16)


def latent_cache(rows: np.ndarray, latent: int, dtype: DType) -> np.ndarray:
    """[C, 1, 1, block] of rows f32 [C, page_size, width]; rows of NaN are left as they were."""
    count, page_size, width = rows.shape
    block = page_size * row_size(latent, width - latent, dtype)
    cache = np.full((1, count, 1, 1, block), 0x7F, np.int8).view(dtype.numpy)  # NaN in f8, of a large power in i8
    if dtype.numpy.itemsize > 1:
        cache = np.full((1, count, 1, 1, block), np.nan, dtype.numpy)
    flat = rows.reshape(-1, width)
    slots = np.where(np.isnan(flat).any(1), -1, np.arange(len(flat)))
    write_rows(cache, 0, flat[:, :latent], flat[:, latent:], slots, page_size)
    return cache[0]
