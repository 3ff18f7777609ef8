"""How columns of quantized weights lie in memory, as kernels multiply them: runs of neighbours in one group."""

from __future__ import annotations

import math
from dataclasses import dataclass

from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.ir.layouts import split_block
from warploom.ir.types import DType

LONGEST = 64


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a row of W that are neighbours, and the products that their numbers take part in.

    Attributes:
        byte: the first, in the piece.
        columns: which columns of the piece the first byte's number meets; of four bits: the low one's, the high one's.
        scales: the column at which the scale of each is found; None: of the product before, whose scale waits.
    """

    byte: int
    columns: tuple[int, ...]
    scales: tuple[int | None, ...]


def length_of(problem: LinearProblem) -> int:
    """Columns of a run: no more than a group has, nor half a block of packed numbers."""
    group = problem.k // problem.weight.groups
    half = split_block(problem.k) // 2 if problem.weight.dtype is DType.I4 else LONGEST
    return math.gcd(group, half, LONGEST)


def runs_of(problem: LinearProblem, columns: int) -> list[Run]:
    """The runs of a piece of `columns` columns, which holds whole blocks."""
    length = length_of(problem)
    if problem.weight.dtype is not DType.I4:
        return [Run(first, (first,), (first,)) for first in range(0, columns, length)]
    block = split_block(problem.k)
    half = block // 2
    shared = problem.k // problem.weight.groups % block == 0  # both numbers of a byte are of one group
    return [
        Run(
            start // 2 + first,
            (start + first, start + half + first),
            (None if shared else start + first, start + (0 if shared else half + first)),
        )
        for start in range(0, columns, block)
        for first in range(0, half, length)
    ]
