"""Which kernel computes a fusion group: the first family of its kind that takes it.

The families are the modules of `kernels/` that have a `KIND` and a `match` (see `kernel.Template`), in the order of
their file names. To add a family, drop a file there.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import cast

from warploom.codegen.cpu import kernels
from warploom.codegen.cpu.kernel import Match, Template
from warploom.ir.function import Function
from warploom.ir.op import op_of
from warploom.ir.types import DType, type_of

LOOPS = "loops"  # the kind that takes any dtype


@cache
def templates() -> tuple[Template, ...]:
    """All kernel families."""
    modules = [import_module(f"{kernels.__name__}.{found.name}") for found in pkgutil.iter_modules(kernels.__path__)]
    return tuple(cast(Template, module) for module in modules if hasattr(module, "KIND") and hasattr(module, "match"))


def find_kernel(group: Function, families: Sequence[Template]) -> Match | str:
    """The kernel for a group, or why no family takes it; `families` are asked in order."""
    kind = kind_of(group)
    narrow = _narrow_activation(group)
    if narrow is not None and kind != LOOPS:
        return narrow
    refusals = []
    for family in families:
        if kind == family.KIND:
            found = family.match(group)
            if isinstance(found, Match):
                return found
            refusals.append(found)
    if refusals:
        return "; ".join(refusals)
    kinds = sorted({family.KIND for family in families})
    return f"no kernel family is of kind {kind!r}; there are {', '.join(kinds) or 'none'}"


def _narrow_activation(group: Function) -> str | None:
    """Hand-shaped kernels keep activations in f32: why they do not take a group, or None."""
    for operation in group.ops:
        spec = op_of(operation)
        for declared, value in zip(spec.operands if spec else (), operation.operands, strict=False):
            if declared.widened and type_of(value).dtype is not DType.F32:
                return f"activations must be f32; {declared.name} of {operation.name} is {type_of(value)}"
    return None


def kind_of(group: Function) -> str:
    """The `wl.kind` of a group, empty if it has none."""
    attributes = group.operation.attributes
    return str(attributes["wl.kind"].value) if "wl.kind" in attributes else ""
