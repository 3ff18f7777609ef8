"""How far logits are from the nearest of what transformers in f32 may say, where routers are nearly undecided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FAR = 5.0  # times what is usual


class Parts(NamedTuple):
    """Errors of logits as parts of the usual one of transformers in bf16, root of mean square.

    Attributes:
        all: of all positions. worst: of the worst one.
    """

    all: float
    worst: float


def error_parts(actual: np.ndarray, narrow: np.ndarray, exact: np.ndarray) -> Parts:
    """How far off logits are, each from its nearest.

    Positions at which bf16 is more than 5 times as far off as at the median one are none of its usual error: there it
    took a choice that is not among the ways, and would excuse errors at all others.

    Args:
        actual: [positions, vocab], what is judged.
        narrow: [positions, vocab], transformers in bf16; it too takes near-ties its own way.
        exact: [ways, choices, positions, vocab], see `near_ties.references`.
    """
    rows, theirs = (by_position(nearest_error(logits, exact)) for logits in (actual, narrow))
    usual = rms(theirs[theirs <= FAR * np.median(theirs)])
    return Parts(rms(rows) / usual, float(rows.max()) / usual)


def nearest_error(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """[positions, vocab]: from the nearest way, the same for all positions, and of its choices each position's."""
    errors = actual - exact
    choice = np.square(errors, dtype=np.float64).sum(-1).argmin(1)  # [ways, positions]
    rows = np.take_along_axis(errors, choice[:, None, :, None], 1)[:, 0]
    nearest: np.ndarray = rows[np.square(rows, dtype=np.float64).sum((1, 2)).argmin()]
    return nearest


def by_position(error: np.ndarray) -> np.ndarray:
    """[positions] of [positions, vocab]: root of mean square."""
    rows: np.ndarray = np.sqrt(np.mean(np.square(error, dtype=np.float64), 1))
    return rows


def rms(error: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))
