"""Every kernel's predicted time and what bounds it, beside the measured time if there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import fmean

from warploom.passes.cost import Cost, Device, Work, cost
from warploom.runtime.plan import Plan
from warploom.tools.predictions import works
from warploom.tools.reports import decode_dims, running
from warploom.tools.table import count, shown, size, us


@dataclass(frozen=True)
class RooflineRow:
    """One kernel in one entry. Times are of one launch, microseconds; `measured` 0: it was not.

    Attributes:
        launch, memory, compute: parts of `predicted`; of the latter two the longer one counts.
    """

    entry: str
    kernel: str
    launches: int
    bound: str
    bytes: int = shown(size)
    flops: int = shown(count)
    launch: float = shown(us)
    memory: float = shown(us)
    compute: float = shown(us)
    predicted: float = shown(us)
    measured: float = shown(us)
    error: str = ""


def roofline_rows(
    plan: Plan, page_size: int, given: Mapping[str, int], device: Device, measured: Mapping[str, float]
) -> list[RooflineRow]:
    """Return one row per entry and kernel, in the order of their first launch: what its launches take on average.

    Args:
        measured: microseconds of a launch by kernel, possibly none.
    """
    rows = []
    for name, entry in plan.entries.items():
        dims = decode_dims(entry, page_size, given)
        launches = running(entry, dims)
        by_kernel: dict[str, list[Work]] = defaultdict(list)
        for launch, work in zip(launches, works(plan, name, launches, dims), strict=True):
            by_kernel[launch.kernel].append(work)
        rows += [_row(name, kernel, same, device, measured.get(kernel, 0.0)) for kernel, same in by_kernel.items()]
    return rows


def _row(entry: str, kernel: str, same: list[Work], device: Device, measured: float) -> RooflineRow:
    costs = [cost(work, device) for work in same]
    mean = Cost(*(fmean(part) for part in zip(*map(astuple, costs), strict=True)))
    predicted = fmean(one.us for one in costs)
    return RooflineRow(
        entry=entry,
        kernel=kernel,
        launches=len(same),
        bound=mean.bound,
        bytes=round(fmean(work.bytes for work in same)),
        flops=round(fmean(work.flops for work in same)),
        launch=mean.launch_us,
        memory=mean.memory_us,
        compute=mean.compute_us,
        predicted=predicted,
        measured=measured,
        error=f"{predicted / measured - 1:+.0%}" if measured else "",
    )
