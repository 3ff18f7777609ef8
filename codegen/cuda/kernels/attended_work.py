"""Dims, flops and bytes of attention over a page table."""

from __future__ import annotations

from typing import Protocol


class AttendedProblem(Protocol):
    """Work as expressions over tokens T, sequences S and pages of a sequence P."""

    @property
    def flops(self) -> str: ...

    @property
    def bytes(self) -> str: ...


class OfPages:
    """A kernel of any number of tokens that attend pages."""

    __slots__ = ()
    problem: AttendedProblem

    @property
    def dims(self) -> tuple[str, ...]:
        return "T", "S", "P"

    @property
    def flops(self) -> str:
        return self.problem.flops

    @property
    def bytes(self) -> str:
        return self.problem.bytes
