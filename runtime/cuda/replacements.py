"""Which launches of an entry a GPU runs: where it holds all blocks of one kernel in place of several, that one."""

from __future__ import annotations

from typing import NamedTuple

from warploom.errors import ArtifactError
from warploom.runtime.plan import Entry, Guard, Launch


class Chosen(NamedTuple):
    """A launch, which runs where its guard holds, unless that of a kernel in its place does."""

    launch: Launch
    unless: Guard | None = None


def chosen_launches(entry: Entry, multiprocessors: int) -> list[Chosen]:
    """Return the launches of an entry on a GPU with so many multiprocessors, in order.

    Raises:
        ArtifactError: replacements without guard, or of launches that there are not.
    """
    unless: dict[int, Guard] = {}
    after: dict[int, Chosen] = {}
    for replacement in entry.replacements:
        guard, replaces = replacement.launch.when, replacement.replaces
        if guard is None or not replaces or not set(replaces) <= set(range(len(entry.launches))) - unless.keys():
            raise ArtifactError(
                f"The replacement {replacement.launch.kernel} is malformed",
                expected=f"a guard, and launches below {len(entry.launches)} that nothing else replaces",
                found=f"{guard}, {replaces}"[:300],
                fix="compile the model again",
            )
        if multiprocessors >= replacement.multiprocessors:
            unless |= dict.fromkeys(replaces, guard)
            after[replaces[-1]] = Chosen(replacement.launch)
    chosen = []
    for place, launch in enumerate(entry.launches):
        chosen += [Chosen(launch, unless.get(place)), *([after[place]] if place in after else [])]
    return chosen


def kernels_of(entry: Entry, multiprocessors: int) -> set[str]:
    """Return the names of the kernels of these launches."""
    return {chosen.launch.kernel for chosen in chosen_launches(entry, multiprocessors)}
