"""Which kernels compute fusion groups: those of the first family of a group's kind that takes it. Target independent.

Families are the modules of a target's `kernels/` that have a `KIND` and a `match`, in the order of their file names. To
add a family, drop a file there. Equal specs are one kernel.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

from warploom.codegen.plan import called, callee
from warploom.errors import CompileError
from warploom.ir.function import Function, path_of


class Family(Protocol):
    """A module of `kernels/`."""

    KIND: str


class Spec(Protocol):
    """All that a kernel's code depends on, equal to another if that is the same."""

    @property
    def name(self) -> str:
        """Of the kernel."""


F = TypeVar("F", bound=Family)
M = TypeVar("M")
S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Chosen(Generic[S]):
    """A kernel and the kind of the groups that it computes."""

    kind: str
    spec: S


def families_in(kernels: ModuleType) -> tuple[Any, ...]:
    """The families that lie in a package."""
    modules = [import_module(f"{kernels.__name__}.{found.name}") for found in pkgutil.iter_modules(kernels.__path__)]
    return tuple(module for module in modules if hasattr(module, "KIND") and hasattr(module, "match"))


def kind_of(group: Function) -> str:
    """The `wl.kind` of a group, empty if it has none."""
    attributes = group.operation.attributes
    return str(attributes["wl.kind"].value) if "wl.kind" in attributes else ""


def first_match(group: Function, families: Sequence[F], match: Callable[[F], M | str]) -> M | str:
    """What the first family of the group's kind that takes it gives, or why none does; they are asked in order."""
    kind, refusals = kind_of(group), list[str]()
    for family in families:
        if kind == family.KIND:
            found = match(family)
            if not isinstance(found, str):
                return found
            refusals.append(found)
    if refusals:
        return "; ".join(refusals)
    kinds = sorted({family.KIND for family in families})
    return f"no kernel family is of kind {kind!r}; there are {', '.join(kinds) or 'none'}"


def match_groups(
    entries: Mapping[str, Function], groups: Mapping[str, Function], match: Callable[[Function, Function], M | str]
) -> dict[str, M]:
    """The match of every group that is called, in order of first call.

    Args:
        match: gives the kernels of a group that an entry calls, or says why there are none.

    Raises:
        CompileError: there are none.
    """
    matches: dict[str, M] = {}
    for entry in entries.values():
        for call in called(entry):
            name = callee(call)
            if name in matches:
                continue
            found = match(groups[name], entry)
            if isinstance(found, str):
                raise CompileError(
                    f"no kernel computes the group @{name} of @{entry.name} ({path_of(call) or 'no module path'})",
                    expected="a family in the target's `kernels/` that takes it",
                    found=found,
                    fix="add the case to a kernel family, or let the passes decompose the group's hero",
                )
            matches[name] = found
    return matches


def distinct(chosen: Iterable[Chosen[S]]) -> dict[str, Chosen[S]]:
    """Kernels by name, equal specs once; CompileError if two that differ have one name."""
    kernels: dict[str, Chosen[S]] = {}
    for one in chosen:
        known = kernels.setdefault(one.spec.name, one)
        if known.spec != one.spec:
            raise CompileError(
                f"two kernels are named {one.spec.name}",
                expected="a name that tells specs apart",
                found=f"{known.spec} and {one.spec}",
            )
    return kernels
