"""The part of a sequence of launches that repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Chain(NamedTuple):
    """`repetitions` of `period` launches, from `first` on."""

    first: int
    period: int
    repetitions: int

    @property
    def length(self) -> int:
        """Launches in all."""
        return self.period * self.repetitions


def longest_chain(kernels: Sequence[str | None]) -> Chain | None:
    """Return the longest run that is one sequence of kernels repeated at least twice; of equals, the shortest period.

    Args:
        kernels: names; None ends a run.
    """
    best: Chain | None = None
    for period in range(1, len(kernels) // 2 + 1):
        equal = 0  # launches before `place` that are those one period further
        for place in range(len(kernels) - period + 1):
            follower = kernels[place + period] if place + period < len(kernels) else None
            if follower is not None and kernels[place] == follower:
                equal += 1
                continue
            count = equal // period + 1
            if count > 1 and (best is None or period * count > best.length):
                best = Chain(place - equal, period, count)
            equal = 0
    return best
