"""Extents of blocks, which Triton wants to be powers of two."""

from __future__ import annotations

LEAST = 16  # that matrix units take


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not below a positive number; Triton's function of this name."""
    return 1 << (number - 1).bit_length()


def padded(extent: int) -> int:
    """The smallest power of two that is not below an extent and that matrix units take."""
    return max(LEAST, next_power_of_2(extent))
