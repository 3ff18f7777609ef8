"""What is proven of a persistent kernel's phases holds however their blocks are scheduled."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from warploom.codegen.cuda.persistent.flow import Flow, Read, unordered
from warploom.codegen.cuda.persistent.split import LAYER

REPETITIONS = 4


@st.composite
def flows(draw: st.DrawFn) -> list[list[Read]]:
    count = draw(st.integers(1, 5))
    read = st.builds(Read, st.integers(0, count - 1), st.integers(0, 1), st.booleans())
    return [draw(st.lists(read, min_size=1, max_size=3)) for _ in range(count)]


@dataclass
class Exchange:
    """Parts of values that blocks hand on: (repetition, phase, block) -> there, or cleared."""

    there: set[tuple[int, int, int]] = field(default_factory=set)
    cleared: set[tuple[int, int]] = field(default_factory=set)


def needed(read: Read, repetition: int, block: int, blocks: int) -> list[tuple[int, int, int]]:
    """The parts that a block fetches."""
    return [(repetition - read.back, read.phase, other) for other in (range(blocks) if read.whole else [block])]


def run(flow: Flow, blocks: int, clearing: Mapping[int, int | None], rng: random.Random) -> str:
    """One run of all blocks in a random order: `done`, `stuck`, or `lost` if something is read that was cleared.

    Args:
        clearing: the phase that clears what another made in the repetition before; None: none does.
    """
    exchange = Exchange({(-1, phase, block) for phase in range(len(flow)) for block in range(blocks)})
    # Every block is a sequence of reads, one at a time, then a write, for every phase of every repetition.
    programs: list[list[tuple[str, int, int, int]]] = []
    for _ in range(blocks):
        steps = []
        for repetition in range(REPETITIONS):
            for phase, reads in enumerate(flow):
                steps += [("read", repetition, phase, i) for i in range(len(reads))]
                steps += [("clear", repetition, phase, value) for value, by in clearing.items() if by == phase]
                steps.append(("write", repetition, phase, 0))
        programs.append(steps[::-1])
    while any(programs):
        able = [b for b in range(blocks) if programs[b] and can_run(flow, programs[b][-1], b, blocks, exchange)]
        if not able:
            return "lost" if exchange.cleared and waits_for_cleared(flow, programs, exchange) else "stuck"
        block = rng.choice(able)
        kind, repetition, phase, value = programs[block].pop()
        if kind == "write":
            exchange.there.add((repetition, phase, block))
        elif kind == "clear":
            exchange.cleared.add((repetition - 1, value))
            exchange.there = {part for part in exchange.there if part[:2] != (repetition - 1, value)}
    return "done"


def can_run(flow: Flow, step: tuple[str, int, int, int], block: int, blocks: int, exchange: Exchange) -> bool:
    kind, repetition, phase, read = step
    return kind != "read" or exchange.there.issuperset(needed(flow[phase][read], repetition, block, blocks))


def waits_for_cleared(flow: Flow, programs: Sequence[list[tuple[str, int, int, int]]], exchange: Exchange) -> bool:
    steps = [steps[-1] for steps in programs if steps]
    reads = [(repetition, flow[phase][read]) for kind, repetition, phase, read in steps if kind == "read"]
    return any((repetition - read.back, read.phase) in exchange.cleared for repetition, read in reads)


def clearing_phase(flow: Flow, value: int) -> int | None:
    """Return the first phase that may clear what phase `value` made in the repetition before; None: none may.

    It clears after its own reads. A block that has read all of a value knows that every block which made a part of it
    had read what it made it of: numbers are made of what was read. So all readers of the repetition before must be
    among those that the phase's reads were made by, directly or not.
    """
    readers = {(phase, read.back - 1) for phase, reads in enumerate(flow) for read in reads if read.phase == value}
    return next((phase for phase in range(len(flow)) if readers <= makers(flow, phase)), None)


def makers(flow: Flow, phase: int) -> set[tuple[int, int]]:
    """Phases, each with its repetition, that are over when a block has read what `phase` reads in repetition 0."""
    over: set[tuple[int, int]] = set()
    unseen = [(read.phase, -read.back) for read in flow[phase] if read.whole]
    while unseen:
        maker = unseen.pop()
        if maker not in over and maker[1] >= -1:
            over.add(maker)
            unseen += [(read.phase, maker[1] - read.back) for read in flow[maker[0]]]
    return over


@given(flow=flows(), blocks=st.integers(1, 3), seed=st.integers(0, 1000))
def test_what_is_ordered_ends_and_what_may_be_cleared_is_read_no_more(
    flow: list[list[Read]], blocks: int, seed: int
) -> None:
    if unordered(flow) is None:
        clearing = {value: clearing_phase(flow, value) for value in range(len(flow))}
        assert run(flow, blocks, clearing, random.Random(seed)) == "done"


def test_a_phase_that_waits_for_itself_is_told() -> None:
    assert unordered([[Read(0, 0, True)]]) == "phase 0 waits for phase 0, which comes no earlier"
    assert run([[Read(0, 0, True)]], 2, {}, random.Random(0)) == "stuck"
    assert unordered([[Read(1, 0, True)], [Read(0, 1, True)]]) is not None
    assert unordered([[Read(2, 0, True)]]) is not None


def test_a_layer_is_cleared_in_the_next_one() -> None:
    output, down = 2, 4
    assert unordered(LAYER) is None
    assert clearing_phase(LAYER, output) == 0  # by who reads what down made of it
    assert clearing_phase(LAYER, down) == 3  # by who reads what output made of it
    runs = [run(LAYER, 2, {output: 0, down: 3}, random.Random(seed)) for seed in range(30)]
    assert set(runs) == {"done"}
    assert "lost" in {run(LAYER, 2, {down: 0}, random.Random(seed)) for seed in range(30)}
