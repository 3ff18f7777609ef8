"""Where the buffers of an entry are on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from warploom.errors import ArtifactError
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Entry


class Place(NamedTuple):
    """An address: `offset` itself, or that many bytes after the input `moving`, whose address each call gives."""

    offset: int
    moving: str | None = None


class Arenas(NamedTuple):
    """Addresses of the two arenas of an entry."""

    scratch: int
    zeroed: int


def place_buffers(entry: Entry, dims: Mapping[str, int], fixed: Mapping[str, int], arenas: Arenas) -> dict[str, Place]:
    """Return the place of every buffer by name.

    Args:
        dims: the largest that the entry is called with; offsets hold for all smaller ones.
        fixed: addresses of inputs and params; inputs that are not in it move from call to call.

    Raises:
        ArtifactError: the plan contradicts itself.
    """
    # A result that is an input updated in place may bear the input's name: then both are one place.
    buffers = {b.name: b for b in sorted(entry.buffers, key=lambda b: b.kind != "result" or b.aliases is None)}
    places: dict[str, Place] = {}

    def place(buffer: Buffer, depth: int = 0) -> Place:
        if buffer.name not in places:
            places[buffer.name] = compute(buffer, depth)
        return places[buffer.name]

    def compute(buffer: Buffer, depth: int) -> Place:
        offset = 0 if buffer.offset is None else evaluate(buffer.offset, dims)
        if buffer.aliases is not None:
            if buffer.aliases not in buffers or depth > len(buffers):
                raise _malformed(entry, buffer, f"aliases {buffer.aliases!r}")
            base = place(buffers[buffer.aliases], depth + 1)
            return Place(base.offset + offset, base.moving)
        if buffer.kind in ("input", "param"):
            return Place(fixed[buffer.name]) if buffer.name in fixed else Place(0, buffer.name)
        if buffer.offset is None:
            raise _malformed(entry, buffer, "has no place in an arena")
        return Place((arenas.zeroed if buffer.kind == "zeroed" else arenas.scratch) + offset)

    for buffer in buffers.values():
        place(buffer)
    return places


def _malformed(entry: Entry, buffer: Buffer, what: str) -> ArtifactError:
    return ArtifactError(
        f"The plan's buffer {buffer.name!r} {what}",
        expected=f"one of {', '.join(b.name for b in entry.buffers)}"[:300],
        fix="compile the model again",
    )
