"""How far logits are from the nearest of what transformers in f32 may say, where routers are nearly undecided."""

from __future__ import annotations

import numpy as np

FAR = 5.0  # times the median


def error_part(actual: np.ndarray, narrow: np.ndarray, exact: np.ndarray) -> float:
    """The error of logits as a part of that of transformers in bf16, root of mean square, each from its nearest.

    Positions at which bf16 is more than 5 times as far off as at the median one are none of its usual error: there it
    took a choice that is not among the ways, and would excuse errors at all others.

    Args:
        actual: [positions, vocab], what is judged.
        narrow: [positions, vocab], transformers in bf16; it too takes near-ties its own way.
        exact: [ways, 2, positions, vocab], see `near_ties.references`.
    """
    return rms(nearest_error(actual, exact)) / usual_rms(nearest_error(narrow, exact))


def nearest_error(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """[positions, vocab]: from the nearest way, the same for all positions, and of its two rows the nearer one."""
    errors = actual - exact
    second = np.square(errors, dtype=np.float64).sum(-1).argmin(1)  # [ways, positions]
    rows = np.take_along_axis(errors, second[:, None, :, None], 1)[:, 0]
    nearest: np.ndarray = rows[np.square(rows, dtype=np.float64).sum((1, 2)).argmin()]
    return nearest


def usual_rms(error: np.ndarray) -> float:
    """`rms` [positions, vocab] of the positions that are not far off."""
    rows = np.sqrt(np.mean(np.square(error, dtype=np.float64), 1))
    return rms(error[rows <= FAR * np.median(rows)])


def rms(error: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))
