"""What a kernel family offers, and how a kernel is called in place of a fusion group.

A family is one module in `kernels/` with two names (see `Template`):

    KIND = "rms_norm"                            # the `wl.kind` of the groups it takes

    @dataclass(frozen=True)
    class RmsNormSpec: ...                       # a `KernelSpec`: all that the emitted code depends on

    def match(group: Function) -> Match | str:   # the kernel for this group, or why this family does not take it
        ...

Equal specs are one kernel, whatever group asked for them. Expressions are those of `warploom.runtime.expr`:
integers, dim names, `+ - * //`, `max()`, `min()`. There are two namespaces: a spec speaks of its own dims, a `Match`
says what they are in terms of the symbols of the group's `wl.dims` (which are the caller's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from warploom.codegen.binding import Slot
from warploom.codegen.cpu.emitter import Library
from warploom.ir.function import Function
from warploom.runtime.expr import Expr

__all__ = ["KernelSpec", "Match", "Slot", "Template"]


class KernelSpec(Protocol):
    """What a kernel is: frozen, hashable, compared by value. `str(spec)` is its one-line description.

    All expressions are over `dims`.
    """

    @property
    def name(self) -> str:
        """Symbol of the kernel: readable, a C identifier, the same in every process, and unique to the spec."""

    @property
    def dims(self) -> tuple[str, ...]:
        """The kernel's own symbolic dims, in the order of the ABI's `dims`."""

    @property
    def tiles(self) -> str:
        """Number of independent tiles of a launch; 0 means nothing to do."""

    @property
    def flops(self) -> str:
        """Floating-point operations of one launch."""

    @property
    def bytes(self) -> str:
        """Bytes that one launch must move between memory and the cores at least."""

    @property
    def scratch_bytes(self) -> int:
        """Memory that one thread needs while it runs the kernel; 64-byte aligned."""

    def emit(self, library: Library) -> None:
        """Define the kernel in the library, for `library.isa`: `with library.kernel(self.name, ...) as k: ...`."""


@dataclass(frozen=True, slots=True)
class Match:
    """A kernel that computes a group.

    Attributes:
        spec: the kernel.
        operands: its arguments in the order of the ABI's `args`.
        dims: own dim -> expression over the group's symbols, for every name in `spec.dims`.
    """

    spec: KernelSpec
    operands: tuple[Slot, ...]
    dims: Mapping[str, Expr]


class Template(Protocol):
    """A module of `kernels/`."""

    KIND: str

    def match(self, group: Function) -> Match | str:
        """The kernel for `group`, or the reason why this family does not take it."""
