"""Which kernels compute a fusion group: those of the first family of its kind that takes it.

The families are the modules of `kernels/` that have a `KIND` and a `match` (see `kernel.Template`), in the order of
their file names. To add a family, drop a file there.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import cast

from warploom.codegen.cuda import kernels
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Template
from warploom.ir.function import Function


@cache
def templates() -> tuple[Template, ...]:
    """All kernel families."""
    modules = [import_module(f"{kernels.__name__}.{found.name}") for found in pkgutil.iter_modules(kernels.__path__)]
    return tuple(cast(Template, module) for module in modules if hasattr(module, "KIND") and hasattr(module, "match"))


def find_kernels(group: Function, target: CudaTarget, families: Sequence[Template]) -> Match | str:
    """The kernels for a group, or why no family takes it; `families` are asked in order."""
    kind = kind_of(group)
    refusals = []
    for family in families:
        if kind == family.KIND:
            found = family.match(group, target)
            if isinstance(found, Match):
                return found
            refusals.append(found)
    if refusals:
        return "; ".join(refusals)
    kinds = sorted({family.KIND for family in families})
    return f"no kernel family is of kind {kind!r}; there are {', '.join(kinds) or 'none'}"


def kind_of(group: Function) -> str:
    """The `wl.kind` of a group, empty if it has none."""
    attributes = group.operation.attributes
    return str(attributes["wl.kind"].value) if "wl.kind" in attributes else ""
