"""q, k and v of a step where a projection left them: ranges of columns, before their rotation."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.columns import Columns, Range, columns_of
from warploom.codegen.groups import static
from warploom.ir.ops.rope import rope
from warploom.ir.rewrite import producer
from warploom.ir.types import type_of


@dataclass(frozen=True, slots=True)
class Projection:
    """Heads side by side; `half` pairs (i, i + half) of each head of q and k are to be rotated by angles [T, half].

    Without q (None) there are only k and v.
    """

    q: Range | None
    k: Range
    v: Range
    half: int

    def __str__(self) -> str:
        q = "" if self.q is None else f"q{self.q}_"
        return f"{q}k{self.k}_v{self.v}_r{self.half}"


@dataclass(frozen=True, slots=True)
class Projected:
    """A projection and where it is: matrices of q (if any), k and v, and the angles (cos, sin), if any."""

    projection: Projection
    matrices: tuple[mlir.Value, ...]
    angles: tuple[mlir.Value, ...]


def projected(query: mlir.Value | None, key: mlir.Value, value: mlir.Value) -> Projected | str:
    """Follow a rotated q, a rotated k, and v, to the matrices that hold them, or say why that is not possible."""
    rotations = [producer(rotated, rope) for rotated in (query, key) if rotated is not None]
    angles = [tuple(op.operands)[1:] if op is not None else () for op in rotations]
    if len(set(angles)) > 1:
        return "q and k are rotated by different angles"
    heads = [query, key] if query is not None else [key]
    sources = [columns_of(x if op is None else op.operands[0]) for x, op in zip(heads, rotations, strict=True)]
    sources.append(columns_of(value))
    refusals = [source for source in sources if isinstance(source, str)]
    if refusals:
        return refusals[0]
    found = [source for source in sources if isinstance(source, Columns)]
    *q, k, v = [columns.range for columns in found]
    half = static(type_of(angles[0][0]).shape[1]) if angles[0] else 0
    matrices = tuple(columns.matrix for columns in found)
    return Projected(Projection(q[0] if q else None, k, v, half), matrices, angles[0])
