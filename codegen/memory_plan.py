"""Places in the arena for the buffers of an entry, by liveness, with sizes that are polynomials over the dims.

Buffers that are never live together share a slot; a slot is as large as its largest buffer. Buffers are placed in
order of falling size, each into the smallest slot that is free during its life ("shared objects, greedy by size" of
Pisarchyk and Lee, MLSys 2020, "Efficient Memory Management for Deep Neural Net Inference"). Which of two buffers is
larger may depend on the dims: sizes are compared at one reference point, which decides how good the plan is; that
live buffers never overlap holds for all dims, because a slot's size is the max() of what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warploom.ir.dims import Dim, DimLike, resolve
from warploom.runtime.expr import Expr

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `size` bytes that holds its value from launch `first` to launch `last`, both included."""

    name: str
    size: DimLike
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are live at some launch."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Byte offsets by name, multiples of 64 for all dims, and the size of the arena."""

    offsets: dict[str, Expr]
    bytes: Expr


@dataclass(slots=True)
class _Slot:
    """Memory that buffers with disjoint lives share; `sizes` are those that no other dominates."""

    bytes_at_reference: int
    buffers: list[Lifetime] = field(default_factory=list)
    sizes: list[DimLike] = field(default_factory=list)

    def is_free_for(self, buffer: Lifetime) -> bool:
        return not any(buffer.overlaps(other) for other in self.buffers)

    def add(self, buffer: Lifetime) -> None:
        self.buffers.append(buffer)
        size = _upper_bound(buffer.size)
        if not any(_dominates(other, size) for other in self.sizes):
            self.sizes = [other for other in self.sizes if not _dominates(size, other)] + [size]


def plan_memory(buffers: Sequence[Lifetime], reference: Mapping[str, int]) -> MemoryPlan:
    """Place `buffers` in one arena.

    Args:
        buffers: names are unique; sizes are never negative, and so are the dims.
        reference: dim values at which sizes are compared; the largest, if the arena is allocated for those.
    """
    slots: list[_Slot] = []
    for buffer in sorted(buffers, key=lambda b: (-resolve(b.size, reference), b.first, b.name)):
        free = [slot for slot in slots if slot.is_free_for(buffer)]
        if not free:
            free = [_Slot(resolve(buffer.size, reference))]
            slots += free
        min(free, key=lambda slot: slot.bytes_at_reference).add(buffer)
    offsets: dict[str, Expr] = {}
    end = _Sum(0, ())
    for slot in slots:
        offsets |= {buffer.name: end.text for buffer in slot.buffers}
        end = end.plus(slot.sizes)
    return MemoryPlan(offsets, end.text)


def peak_bytes(buffers: Sequence[Lifetime], dims: Mapping[str, int]) -> int:
    """The most bytes that are live at one launch: no plan can do with less."""
    times = {buffer.first for buffer in buffers}
    return max((sum(resolve(b.size, dims) for b in buffers if b.first <= time <= b.last) for time in times), default=0)


@dataclass(frozen=True, slots=True)
class _Sum:
    """A byte count that is a multiple of 64: a polynomial, and terms that had to be rounded up."""

    polynomial: DimLike
    rounded: tuple[str, ...]

    @property
    def text(self) -> Expr:
        if not self.rounded:
            return self.polynomial if isinstance(self.polynomial, int) else str(self.polynomial)
        parts = self.rounded if self.polynomial == 0 else (str(self.polynomial), *self.rounded)
        return " + ".join(parts)

    def plus(self, sizes: Sequence[DimLike]) -> _Sum:
        """This and a slot that holds any one of `sizes`."""
        if len(sizes) == 1 and isinstance(sizes[0], int):
            return _Sum(self.polynomial + -(-sizes[0] // ALIGNMENT) * ALIGNMENT, self.rounded)
        if len(sizes) == 1 and all(factor % ALIGNMENT == 0 for factor in _factors(sizes[0]).values()):
            return _Sum(self.polynomial + sizes[0], self.rounded)
        largest = f"max({', '.join(map(str, sizes))})" if len(sizes) > 1 else str(sizes[0])
        return _Sum(self.polynomial, (*self.rounded, f"({largest} + {ALIGNMENT - 1}) // {ALIGNMENT} * {ALIGNMENT}"))


def _factors(size: DimLike) -> dict[tuple[str, ...], int]:
    return dict(size.terms) if isinstance(size, Dim) else {(): size}


def _dominates(large: DimLike, small: DimLike) -> bool:
    """Whether `large >= small` is plain for all dims: no coefficient of the difference is negative."""
    return all(factor >= 0 for factor in _factors(large - small).values())


def _upper_bound(size: DimLike) -> DimLike:
    """`size` without its negative terms: it grows with every dim, so the arena is largest at the largest dims."""
    bound: DimLike = 0
    for symbols, factor in _factors(size).items():
        if factor > 0:
            bound = bound + (Dim(((symbols, factor),)) if symbols else factor)
    return bound
