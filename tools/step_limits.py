"""What a machine can do at most, and what the cost model expects of it: beside measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from warploom.passes.cost import Device, Work, cost
from warploom.runtime.cuda.profile import KernelTime
from warploom.runtime.plan import Plan
from warploom.tools.predictions import works

_COPY_TO_READ = 1.05  # a read stream is this much faster than a copy, bytes read and written


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most, per second; flops of products by the numbers that are multiplied."""

    copy_bytes: float
    read_bytes: float
    flops: dict[str, float]

    def seconds(self, work: Work) -> float:
        """Return the least time for some work."""
        numbers = "" if work.product is None else work.product.numbers
        peak = self.flops.get(numbers, self.flops.get("bf16"))
        return max(work.bytes / self.read_bytes, work.flops / peak if peak else 0.0)


def limits_of(copied: float, known: Device | None) -> Limits:
    """Return the limits of a device that copies so many bytes per second.

    Args:
        known: what was measured of it; None: nothing was.
    """
    if known is None:
        return Limits(copied, copied * _COPY_TO_READ, {})
    return Limits(copied, known.most_bytes, known.most_flops)


@dataclass(frozen=True)
class Timed:
    """A launch: what the cost model knows of it, and its time in seconds beside the predicted one, if there is one."""

    kernel: str
    work: Work
    seconds: float
    predicted: float | None


def beside_predictions(plan: Plan, launches: Sequence[KernelTime], known: Device | None) -> list[Timed]:
    """Return the launches of a step that were timed, with their predicted times."""
    found = []
    for entry, some in groupby(launches, key=lambda launch: launch.entry):
        timed = list(some)
        for one, work in zip(timed, works(plan, entry, [one.launch for one in timed], timed[0].dims), strict=True):
            predicted = None if known is None else cost(work, known).us / 1e6
            found.append(Timed(one.launch.kernel, work, one.seconds, predicted))
    return found
