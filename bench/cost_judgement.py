"""How far the cost model's predictions are from measured times: in all, by kind of kernel, and where they are worst."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from statistics import quantiles

from cost_rows import Row

from warploom.passes.cost import Device, cost
from warploom.tools.table import shown

CLOSE = 0.15
LONG_US = 10.0  # kernels of which most time is not their launch
_SIZE, _MARGIN, _DECADES = 640, 50, (0.5, 3.7)  # of the plot: pixels; powers of ten of microseconds
_COLOURS = ("#97bbf5", "#ff725c", "#3ca951")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.0f} %"


@dataclass(frozen=True)
class Judgement:
    """Some kernels: which part is within 15 %, and the 10th, 50th and 90th percentile of errors."""

    kernels_of: str
    number: int
    close: float = shown(_percent)
    low: float = shown(_signed)
    middle: float = shown(_signed)
    high: float = shown(_signed)


@dataclass(frozen=True)
class Miss:
    """A kernel that is not within 15 %."""

    error: float = shown(_signed)
    measured: float = shown(lambda us: f"{us:.1f} us")
    predicted: str = ""
    kernel: str = ""
    step: str = ""


def error(row: Row, device: Device) -> float:
    """How far a prediction is from the measured time, as a part of it."""
    return cost(row.work, device).us / row.us - 1


def judge(rows: Sequence[Row], device: Device) -> list[Judgement]:
    """Return the judgement on all rows, on long kernels, and on every kind."""
    groups = {"all": list(rows), f"over {LONG_US:.0f} us": [row for row in rows if row.us > LONG_US]}
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[kind_of(row)].append(row)
    return [_judgement(name, some, device) for name, some in (groups | dict(sorted(kinds.items()))).items() if some]


def kind_of(row: Row) -> str:
    """The kind of a kernel; of products the numbers, and how many rows, too."""
    product = row.work.product
    if product is None or not product.columns:
        return row.work.kind
    ranges = {1: "1 row", 32: "up to 32 rows", 128: "up to 128 rows"}
    rows = next((name for most, name in ranges.items() if product.rows <= most), "more rows")
    return f"{row.work.kind} {product.numbers}, {rows}"


def _judgement(name: str, rows: Sequence[Row], device: Device) -> Judgement:
    errors = [error(row, device) for row in rows]
    low, *_, middle, _, _, _, high = quantiles([*errors, *errors], n=10, method="inclusive")
    return Judgement(name, len(rows), sum(abs(e) <= CLOSE for e in errors) / len(rows), low, middle, high)


def worst(rows: Sequence[Row], device: Device, number: int) -> list[Miss]:
    """Return the kernels whose predictions are the farthest away, as a ratio."""
    missed = sorted(rows, key=lambda row: -abs(log10(cost(row.work, device).us / row.us)))[:number]
    return [
        Miss(error(row, device), row.us, cost(row.work, device).explain(), row.kernel, f"{row.model} {row.step}")
        for row in missed
    ]


def plot(sets: Mapping[str, Sequence[Row]], device: Device) -> str:
    """Return an SVG: predicted over measured microseconds, both by powers of ten, and where 15 % are."""
    low, high = 10 ** _DECADES[0], 10 ** _DECADES[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIZE}" height="{_SIZE}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for factor, width in ((1 - CLOSE, 0.5), (1.0, 1.0), (1 + CLOSE, 0.5)):
        points = f'x1="{_x(low)}" y1="{_y(factor * low)}" x2="{_x(high)}" y2="{_y(factor * high)}"'
        parts.append(f'<line {points} stroke="black" stroke-width="{width}"/>')
    for power in range(1, 4):
        at = 10.0**power
        parts.append(f'<text x="{_x(at)}" y="{_SIZE - 20}">{at:.0f}</text><text x="8" y="{_y(at)}">{at:.0f}</text>')
    for (name, rows), colour in zip(sets.items(), _COLOURS, strict=False):
        parts += [
            f'<circle cx="{_x(row.us)}" cy="{_y(cost(row.work, device).us)}" r="2.5" fill="{colour}" '
            f'fill-opacity="0.7"><title>{escape(f"{row.kernel}, {row.model} {row.step}")}</title></circle>'
            for row in rows
        ]
        line = _MARGIN + 18 * len([part for part in parts if "<rect x" in part])
        parts.append(f'<rect x="{_MARGIN + 10}" y="{line}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_MARGIN + 26}" y="{line + 10}">{escape(name)}</text>')
    parts.append(f'<text x="{_SIZE // 2}" y="{_SIZE - 6}">measured, us; upwards: predicted, us</text></svg>')
    return "\n".join(parts)


def _x(us: float) -> float:
    first, last = _DECADES
    return round(_MARGIN + (_SIZE - 2 * _MARGIN) * (log10(us) - first) / (last - first), 1)


def _y(us: float) -> float:
    return round(_SIZE - _x(us), 1)
