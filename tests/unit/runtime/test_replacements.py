"""One launch in place of several: where it runs, and what an older plan means."""

from __future__ import annotations

import msgspec
import pytest

from warploom.errors import ArtifactError
from warploom.runtime.cuda.replacements import chosen_launches, kernels_of
from warploom.runtime.plan import DimRange, Entry, Guard, Launch, Replacement

ONE_TOKEN = Guard("max(T, S)", 1, 1)


def launch(kernel: str, when: Guard | None = None) -> Launch:
    return Launch(kernel, [], [], 1, "model", [1, 1, 1], when)


def entry(*replacements: Replacement) -> Entry:
    dims = {name: DimRange(1, 8) for name in "TS"}
    return Entry(dims, [], [], [launch(name) for name in "abcd"], 0, replacements=list(replacements))


PERSISTENT = Replacement(launch("p", ONE_TOKEN), [0, 2], 132)


def test_it_takes_the_place_of_the_last_one_it_replaces() -> None:
    chosen = chosen_launches(entry(PERSISTENT), 132)
    assert [one.launch.kernel for one in chosen] == ["a", "b", "c", "p", "d"]
    assert [one.unless for one in chosen] == [ONE_TOKEN, None, ONE_TOKEN, None, None]


def test_a_smaller_gpu_runs_what_it_replaces() -> None:
    assert [(one.launch.kernel, one.unless) for one in chosen_launches(entry(PERSISTENT), 131)] == [
        (name, None) for name in "abcd"
    ]
    assert kernels_of(entry(PERSISTENT), 131) == set("abcd")
    assert kernels_of(entry(PERSISTENT), 132) == set("abcdp")


@pytest.mark.parametrize(
    "replacements",
    [
        [Replacement(launch("p"), [0], 1)],
        [Replacement(launch("p", ONE_TOKEN), [], 1)],
        [Replacement(launch("p", ONE_TOKEN), [4], 1)],
        [Replacement(launch("p", ONE_TOKEN), [0, 1], 1), Replacement(launch("q", ONE_TOKEN), [1], 1)],
    ],
)
def test_malformed_replacements_are_refused(replacements: list[Replacement]) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        chosen_launches(entry(*replacements), 132)


def test_a_plan_without_replacements_is_read() -> None:
    old = {key: value for key, value in msgspec.to_builtins(entry()).items() if key != "replacements"}
    assert chosen_launches(msgspec.convert(old, Entry), 132) == chosen_launches(entry(), 132)
