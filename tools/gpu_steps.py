"""A package run kernel by kernel: every group of kernels reads what the interpreter computed, and is compared with it.

What a model computes in FP8 cannot be compared at its end alone: two numbers that differ in their last bits may lie on
either side of a boundary of E4M3, and are 6 % apart after it; what follows passes that on. The interpreter itself, with
gains of norms moved by 2^-22, gives logits of a tiny model that are 0.033 of the largest apart; an H100's were 0.10
away, and kernel by kernel 0.008 at most. So the entry runs in its own
memory, in its own order, but what a group of kernels makes is compared at once and replaced by what the interpreter
made of the same inputs. No difference is passed on, every group is held to the usual tolerance, and what overwrites
a value that is still read shows in who reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from warploom.runtime.plan import Entry
from warploom.tools.gpu_package import Package, Run, Step, numbers, opened, read_package
from warploom.tools.table import shown


@dataclass(frozen=True)
class StepRow:
    """What one group of kernels made.

    Attributes:
        near_ties: how many numbers are apart by more than the tolerance, and near ties allow it.
        difference: the largest, less what near ties of its roundings allow, as a fraction of the largest number.
    """

    location: str
    value: str
    near_ties: int
    difference: float = shown(lambda x: f"{x:.2g}")


def run_steps(folder: Path, tolerance: float, ordinal: int = 0, api: Any = None) -> list[StepRow]:
    """Run a package that has steps; see `run_package` for arguments and errors."""
    saved, arrays = read_package(folder)
    with opened(folder, _one_by_one(saved), arrays, ordinal, api) as run:
        return _Steps(run, arrays, tolerance).run()


def _one_by_one(package: Package) -> Package:
    """Without kernels that take the place of several, and write nothing between them."""
    entry = structs.replace(package.plan.entries[package.entry], replacements=[])
    plan = structs.replace(package.plan, entries={**package.plan.entries, package.entry: entry})
    return structs.replace(package, plan=plan)


class _Steps:
    """Compares and replaces values while an entry runs."""

    def __init__(self, run: Run, arrays: dict[str, dict[str, np.ndarray]], tolerance: float) -> None:
        self._run, self._arrays, self._tolerance = run, arrays, tolerance
        self._waiting = sorted(run.package.steps, key=lambda step: step.position)
        self._ends = _ends(run.package, [queued.place for queued in run.entry.queue])
        self._launched = 0
        self.rows: list[StepRow] = []

    def run(self) -> list[StepRow]:
        """The rows of all steps."""
        self._run.entry.enqueue(self._after_launch)
        return self.rows

    def _after_launch(self) -> None:
        end, self._launched = self._ends[self._launched], self._launched + 1
        if end is None:
            return
        self._run.wait()
        while self._waiting and self._waiting[0].position <= end:
            step = self._waiting.pop(0)
            self.rows.append(self._row(step))
            self._run.upload(step.name, self._arrays["value"][step.name])

    def _row(self, step: Step) -> StepRow:
        dtypes = {b.name: b.dtype for b in self._run.package.plan.entries[self._run.package.entry].buffers}
        made = self._run.download(step.name)
        found, wanted = (
            numbers(array, dtypes[step.name]).astype(np.float64).reshape(made.shape)  # views have shapes of their own
            for array in (made, self._arrays["value"][step.name])
        )
        scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):
            apart = np.where((found == wanted) | (np.isnan(found) & np.isnan(wanted)), 0.0, np.abs(found - wanted))
        slack = self._arrays["slack"].get(step.name, np.zeros(made.shape)).reshape(made.shape)
        left = np.nan_to_num(np.maximum(apart - slack, 0.0), nan=np.inf) / scale
        ties = int(((apart > self._tolerance * scale) & (left <= self._tolerance)).sum())
        return StepRow(step.location, step.name, ties, float(left.max(initial=0.0)))


def _ends(package: Package, launches: list[int]) -> list[int | None]:
    """For each launch the call that is done with it, or None: a call may be several launches.

    A buffer of a call bears its number; a launch that only updates an input in place counts to the call before it.
    """
    entry = package.plan.entries[package.entry]
    made = {step.name: step.position for step in package.steps}
    positions = list(accumulate((_position(entry, place, made) for place in launches), max))
    return [
        position if i + 1 == len(positions) or positions[i + 1] > position else None
        for i, position in enumerate(positions)
    ]


def _position(entry: Entry, place: int, made: dict[str, int]) -> int:
    operands = entry.launches[place].operands
    return max((made.get(name, _number(name)) for name in operands), default=-1)


def _number(name: str) -> int:
    """`%12.temp0` is of call 12; inputs and params are of none."""
    return int(name[1:].partition(".")[0]) if name.startswith("%") else -1
