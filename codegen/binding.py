"""How a kernel is called in place of a fusion group. Target independent.

Expressions are those of `warploom.runtime.expr`, over the symbols of the group's `wl.dims`. Those are the caller's
symbols too, because the types of a call agree with the group's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warploom.ir.types import TensorType
from warploom.runtime.expr import Expr
from warploom.runtime.plan import Guard


@dataclass(frozen=True, slots=True)
class Slot:
    """One kernel argument: which value of the group it points to.

    Attributes:
        side, index: input `index` or result `index` of the group, or temp `index` of its lowering. A result that is
            an updated input (`kv`) is one buffer with it; name either.
        offset: bytes added to the pointer, an expression over the group's symbols; this is how one kernel serves
            every layer of the KV cache.
    """

    side: Literal["input", "result", "temp"]
    index: int
    offset: Expr = 0


@dataclass(frozen=True, slots=True)
class Temp:
    """Memory that only the kernels of one group see, from the first to the last of them.

    Attributes:
        type: over the group's symbols.
        zeroed: it is zero at first, and the kernels leave it zero (counters of blocks that are done).
    """

    type: TensorType
    zeroed: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """A kernel with the arguments, dims and number of tiles that one launch has; see `runtime.plan.Launch`."""

    kernel: str
    operands: tuple[Slot, ...]
    dims: tuple[Expr, ...]
    tiles: Expr
    grid: tuple[Expr, ...] = ()
    when: Guard | None = None


@dataclass(frozen=True, slots=True)
class Lowering:
    """The launches that compute one group, in order, and the memory that they share."""

    bindings: tuple[Binding, ...]
    temps: tuple[Temp, ...] = ()
