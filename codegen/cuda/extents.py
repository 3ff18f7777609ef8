"""Extents of blocks, which Triton wants to be powers of two, and their warps."""

from __future__ import annotations

LEAST = 16  # that matrix units take
LANES = 32  # threads of a warp


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not below a positive number; Triton's function of this name."""
    return 1 << (number - 1).bit_length()


def padded(extent: int) -> int:
    """The smallest power of two that is not below an extent and that matrix units take."""
    return max(LEAST, next_power_of_2(extent))


def warps_for(numbers: int, per_thread: int, most: int) -> int:
    """Warps of a block that holds so many numbers in registers, about `per_thread` of them in each thread."""
    return max(1, min(most, numbers // (LANES * per_thread)))
