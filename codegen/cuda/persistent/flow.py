"""What the phases of a repetition hand on to each other, and the proof that waiting for it ends.

A phase makes one value in every repetition. It reads values of phases before it in the same repetition, or of the
repetition before (`back` 1): for the first repetition those are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Read(NamedTuple):
    """What phase `phase` made in this repetition, or `back` repetitions ago.

    Attributes:
        whole: every block that has a part in the phase reads all of it; else all of them together do.
    """

    phase: int
    back: int
    whole: bool


Flow = Sequence[Sequence[Read]]  # what each phase reads, in the order of the phases


def unordered(flow: Flow) -> str | None:
    """Why some block may wait for ever, or None.

    Every block runs the phases in order, and all blocks run at once. So a wait ends if what it waits for is made by a
    phase that comes before it in that order: by induction over the phases of all repetitions.
    """
    for phase, reads in enumerate(flow):
        for read in reads:
            if not 0 <= read.phase < len(flow) or read.back not in (0, 1):
                return f"phase {phase} reads what no phase makes: {read}"
            if read.back == 0 and read.phase >= phase:
                return f"phase {phase} waits for phase {read.phase}, which comes no earlier"
    return None
