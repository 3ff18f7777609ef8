"""ALiBi (Press et al. 2022): scores fall with the distance of a key, with a slope for each head, in place of rotations.

The slopes of n heads, n a power of two, are 2^(-8 (h + 1) / n). Of other n they are those of the power of two below,
then every second one of the next power of two.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.ops.elementwise import cast, mul, sub
from warploom.ir.ops.shape import broadcast, constant, iota
from warploom.ir.types import TensorType


def exponents(heads: int) -> np.ndarray:
    """Of the slopes to base 2, f64 [heads]."""
    whole = 1 << (heads.bit_length() - 1)
    head = np.arange(heads)
    return np.where(head < whole, -8.0 * (head + 1) / whole, -4.0 * (2 * (head - whole) + 1) / whole)


def slopes(heads: int) -> np.ndarray:
    """F32 [heads], descending."""
    return np.exp2(exponents(heads)).astype(np.float32)


def core_distances(position: mlir.Value, scores: TensorType, factor: float) -> mlir.Value:
    """What is added to scores [T, kv_heads, group, keys]: factor * slope * (key - position)."""
    tokens, kv_heads, group, span = shape = scores.shape
    assert isinstance(kv_heads, int)
    assert isinstance(group, int)
    each = (slopes(kv_heads * group) * np.float32(factor)).reshape(kv_heads, group)
    matrix = (tokens, span)
    behind = sub(iota(shape=matrix, axis=1), broadcast(position, shape=matrix, dims=(0,)))
    distance = broadcast(cast(behind, dtype="f32"), shape=shape, dims=(0, 3))
    result: mlir.Value = mul(distance, broadcast(constant(value=each), shape=shape, dims=(1, 2)))
    return result
