"""Random numbers for parameters that have no data, fast to make at any size: one block of noise, repeated.

Dummy weights need to look like weights to the hardware (no zeros, no constant bits, no repeated rows, nothing that
fits in a cache) and to give finite logits; they need not be good random numbers. So one block of BLOCK uniform
numbers is made, and a parameter is a stretch of its endless repetition. Repeating is a copy, which a GPU does at the
speed of its memory, and which numpy can do too: all targets get equal values.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warploom.errors import ArtifactError
from warploom.runtime.manifest import RandomParam

# 64 times a prime: a matrix whose rows are 64 * n long repeats a row only after 262139 others, and every stretch
# begins at a multiple of 64 elements.
UNIT = 64
BLOCK = UNIT * 262139
_SEED = 20261122
_INTEGERS = {"i8": (-127, 127, np.int8), "u8": (0, 255, np.uint8)}
_F8E4M3_MAX = 448.0


def noise_block(dtype: str, mean: float, scale: float) -> NDArray[Any]:
    """Return `mean + scale * u` for BLOCK values u, uniform in [-1, 1), rounded to the dtype; bf16, f8e4m3 as bits.

    The array need not be contiguous.

    Raises:
        ArtifactError: a dtype that random parameters cannot have.
    """
    if not scale:
        return np.broadcast_to(_convert(np.full(1, mean, np.float32), dtype), BLOCK)
    values = _uniform() * np.float32(scale)
    if mean:
        values += np.float32(mean)
    return _convert(values, dtype)


def noise_start(seed: int) -> int:
    """Return the element of the block at which a parameter of this seed begins."""
    return seed * 40503 % (BLOCK // UNIT) * UNIT  # any odd factor spreads consecutive seeds


def random_param(param: RandomParam) -> NDArray[Any]:
    """Return the values of a random parameter; bf16 and f8e4m3 as bits."""
    block, start, size = _block(param.dtype, param.mean, param.scale), noise_start(param.seed), math.prod(param.shape)
    values = np.empty(size, block.dtype)
    first = min(size, BLOCK - start)
    values[:first] = block[start : start + first]
    for begin in range(first, size, BLOCK):
        rest = values[begin : begin + BLOCK]
        rest[:] = block[: rest.size]
    return values.reshape(param.shape)


_block = lru_cache(maxsize=2)(noise_block)  # parameters of a model are of few kinds; to make one takes 0.1 s


def _convert(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Values as a plan dtype; they may be overwritten."""
    if dtype == "bf16":
        return _round_to_bf16(values)
    if dtype == "f8e4m3":
        return _round_to_f8e4m3(values)
    if dtype in _INTEGERS:
        low, high, integer = _INTEGERS[dtype]
        return np.clip(np.rint(values), low, high).astype(integer)
    if dtype in ("f32", "f16"):
        return values.astype(np.float32 if dtype == "f32" else np.float16)
    raise ArtifactError(
        "A random parameter has an unknown dtype",
        expected=f"bf16, f16, f32, f8e4m3, {', '.join(_INTEGERS)}",
        found=dtype,
    )


@lru_cache(maxsize=1)
def _uniform() -> NDArray[np.float32]:
    values = np.random.default_rng(_SEED).random(BLOCK, np.float32)
    values *= 2
    values -= 1
    return values


def _round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest even, in place; the bits of a bf16 are the high half of those of an f32."""
    bits = values.view(np.uint32)
    odd = bits >> 16
    odd &= 1
    bits += odd
    bits += 0x7FFF
    return bits.view(np.uint16)[1::2]


def _round_to_f8e4m3(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round to nearest even, saturated. Divided by 2^120, a number has the exponent in f32 that it has in e4m3."""
    bits = (np.clip(values, -_F8E4M3_MAX, _F8E4M3_MAX) * np.float32(2**-120)).view(np.uint32)
    magnitude = bits & 0x7FFFFFFF
    magnitude += ((magnitude >> 20) & 1) + 0x7FFFF
    return ((bits >> 24) & 0x80 | magnitude >> 20).astype(np.uint8)
