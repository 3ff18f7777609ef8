"""From timings of candidate tiles to a tuning table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import msgspec

from warploom.codegen.cuda.kernels.tiles import Choice
from warploom.codegen.cuda.tuning import Table

SAME = 1.015  # times that differ by less are equal, and fewer kernels are better
# Number of tokens that was timed -> the last number of tokens that it stands for; the largest has no end.
RANGES = {n: n for n in (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768)} | {1024: 1536, 4096: None}


class Timing(msgspec.Struct, frozen=True):
    """How long a layer took.

    Attributes:
        key: `LayerKey` of the layer.
        us: microseconds.
    """

    key: str
    tokens: int
    us: float
    choice: Choice


def select(timings: Iterable[Timing]) -> Table:
    """The fastest tiles of every layer, neighbouring ranges with one kernel where that costs next to nothing."""
    by_key: dict[str, dict[int, dict[Choice, float]]] = {}
    for timing in timings:
        if timing.tokens in RANGES:
            tile = msgspec.structs.replace(timing.choice, up_to=None)
            by_key.setdefault(timing.key, {}).setdefault(timing.tokens, {})[tile] = timing.us
    return Table({key: _choices(by_tokens) for key, by_tokens in by_key.items()})


def _choices(by_tokens: Mapping[int, Mapping[Choice, float]]) -> tuple[Choice, ...]:
    """Choices by rising `up_to`, from the times of candidates by number of tokens."""
    found: list[Choice] = []
    after_us = 0.0  # what the choice of the range after this one takes
    for tokens in sorted(by_tokens, reverse=True):
        times = by_tokens[tokens]
        tile = min(times, key=lambda candidate: times[candidate])
        if found:
            after = _tile(found[0])
            bound = times.get(after, after_us)  # with fewer tokens it takes no longer
            tile = after if bound < SAME * times[tile] else tile
        after_us = times.get(tile, after_us)
        found.insert(0, msgspec.structs.replace(tile, up_to=RANGES[tokens] if found else None))
    merged = [this for this, after in pairwise(found) if _tile(this) != _tile(after)]
    return (*merged, found[-1])


def _tile(choice: Choice) -> Choice:
    return msgspec.structs.replace(choice, up_to=None)
