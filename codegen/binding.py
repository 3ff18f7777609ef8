"""How a kernel is called in place of a fusion group. Target independent.

Expressions are those of `warploom.runtime.expr`, over the symbols of the group's `wl.dims`. Those are the caller's
symbols too, because the types of a call agree with the group's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warploom.runtime.expr import Expr


@dataclass(frozen=True, slots=True)
class Slot:
    """One kernel argument: which value of the group it points to.

    Attributes:
        side, index: input `index` or result `index` of the group. A result that is an updated input (`kv`) is one
            buffer with it; name either.
        offset: bytes added to the pointer, an expression over the group's symbols; this is how one kernel serves
            every layer of the KV cache.
    """

    side: Literal["input", "result"]
    index: int
    offset: Expr = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """A kernel with the arguments, dims and number of tiles that compute one group."""

    kernel: str
    operands: tuple[Slot, ...]
    dims: tuple[Expr, ...]
    tiles: Expr
