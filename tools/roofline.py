"""Every kernel's predicted time and what bounds it, beside the measured time if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warploom.passes.cost import Device, Work, cost
from warploom.runtime.plan import Plan
from warploom.tools.reports import kernel_rows
from warploom.tools.table import count, shown, size


def _us(microseconds: float) -> str:
    return f"{microseconds:.1f} us" if microseconds else ""


@dataclass(frozen=True)
class RooflineRow:
    """One kernel in one entry. Times are of one launch, microseconds; `measured` 0: it was not."""

    entry: str
    kernel: str
    launches: int
    bound: str
    bytes: int = shown(size)
    flops: int = shown(count)
    predicted: float = shown(_us)
    measured: float = shown(_us)
    error: str = ""


def roofline_rows(
    plan: Plan, page_size: int, dims: Mapping[str, int], device: Device, measured: Mapping[str, float]
) -> list[RooflineRow]:
    """Return one row per entry and kernel.

    Args:
        measured: microseconds of a launch by kernel, possibly none.
    """
    rows = []
    for row in kernel_rows(plan, page_size, dims):
        work = Work(row.kind, row.bytes / row.launches, row.flops / row.launches)
        predicted, time = cost(work, device), measured.get(row.kernel, 0.0)
        rows.append(
            RooflineRow(
                entry=row.entry,
                kernel=row.kernel,
                launches=row.launches,
                bound=predicted.bound,
                error=f"{predicted.us / time - 1:+.0%}" if time else "",
                bytes=int(work.bytes),
                flops=int(work.flops),
                predicted=predicted.us,
                measured=time,
            )
        )
    return rows
