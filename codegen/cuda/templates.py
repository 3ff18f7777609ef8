"""Which kernels compute a fusion group: those of the first family of its kind that takes it.

See `codegen.families`, and for what a family offers `kernel.Template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from warploom.codegen.cuda import kernels
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Template
from warploom.codegen.families import families_in, first_match
from warploom.ir.function import Function


@cache
def templates() -> tuple[Template, ...]:
    """All kernel families."""
    return families_in(kernels)


def find_kernels(group: Function, target: CudaTarget, families: Sequence[Template]) -> Match | str:
    """The kernels for a group, or why no family takes it; `families` are asked in order."""
    return first_match(group, families, lambda family: family.match(group, target))
