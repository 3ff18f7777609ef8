"""Which kernel computes a fusion group: the first family of its kind that takes it.

See `codegen.families`, and for what a family offers `kernel.Template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from warploom.codegen.cpu import kernels
from warploom.codegen.cpu.kernel import Match, Template
from warploom.codegen.families import families_in, first_match, kind_of
from warploom.ir.function import Function
from warploom.ir.op import op_of
from warploom.ir.types import DType, type_of

LOOPS = "loops"  # the kind that takes any dtype


@cache
def templates() -> tuple[Template, ...]:
    """All kernel families."""
    return families_in(kernels)


def find_kernel(group: Function, families: Sequence[Template]) -> Match | str:
    """The kernel for a group, or why no family takes it; `families` are asked in order."""
    narrow = _narrow_activation(group)
    if narrow is not None and kind_of(group) != LOOPS:
        return narrow
    return first_match(group, families, lambda family: family.match(group))


def _narrow_activation(group: Function) -> str | None:
    """Hand-shaped kernels keep activations in f32: why they do not take a group, or None."""
    for operation in group.ops:
        spec = op_of(operation)
        for declared, value in zip(spec.operands if spec else (), operation.operands, strict=False):
            if declared.widened and type_of(value).dtype is not DType.F32:
                return f"activations must be f32; {declared.name} of {operation.name} is {type_of(value)}"
    return None
