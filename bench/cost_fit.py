"""Fits a device's figures to measured kernels: one figure after the other is moved while that brings kernels closer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import Any

from cost_judgement import CLOSE
from cost_rows import Row

from warploom.passes.cost import Device, cost, device_from

# What was measured by itself, or is a fact.
FIXED = {"most_bytes", "most_flops", "read_bytes", "cache_size", "hidden_us", "matrix_flops", "count", "shared_bytes"}
FIXED |= {"begun_blocks", "*"}
STEPS = (1.25, 1.12, 1.05)
Figures = dict[tuple[str, ...], float]


def fit(facts: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the facts of a device (see `passes/devices`) with figures that suit the rows better."""
    figures = dict(_figures(facts))
    best = _loss(_device(facts, figures), rows)
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for name in figures:
                for factor in (step, 1 / step):
                    tried = figures | {name: figures[name] * factor}
                    loss = _loss(_device(facts, tried), rows)
                    if loss < best - 1e-5:
                        figures, best, moved = tried, loss, True
    return _with(facts, figures)


def _loss(device: Device, rows: Sequence[Row]) -> float:
    """Mostly how many are off, a little how far."""
    errors = (abs(log(cost(row.work, device).us / row.us)) / log(1 + CLOSE) for row in rows)
    return sum(min(e, 1) ** 3 + 0.15 * min(e, 4) for e in errors) / len(rows)


def _figures(facts: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in facts.items():
        if name in FIXED:
            continue
        if isinstance(value, Mapping):
            yield from _figures(value, (*place, name))
        elif isinstance(value, int | float) and value:
            yield (*place, name), value


def _with(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any]:
    """A copy with three digits of each figure."""
    found: dict[str, Any] = json.loads(json.dumps(facts))
    for (*place, name), value in figures.items():
        part = found
        for step in place:
            part = part[step]
        part[name] = float(f"{value:.3g}")
    return found


def _device(facts: Mapping[str, Any], figures: Figures) -> Device:
    return device_from(_with(facts, figures))
