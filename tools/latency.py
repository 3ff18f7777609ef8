"""Many times as a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and percentiles of times in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    def __str__(self) -> str:
        """Milliseconds, p50 / p99."""
        return f"{1e3 * self.p50:.1f} / {1e3 * self.p99:.1f}"


def spread(values: Sequence[float]) -> Spread:
    """Return mean and percentiles; zeros if there are no values."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return Spread(float(np.mean(values)), p50, p90, p99)
