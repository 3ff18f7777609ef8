"""How a kernel is called in place of a fusion group. Target independent.

Expressions are those of `warploom.runtime.expr`, over the symbols of the group's `wl.dims`. Those are the caller's
symbols too, because the types of a call agree with the group's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from warploom.codegen.expressions import substitute
from warploom.errors import CompileError
from warploom.ir.function import Function
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


@dataclass(frozen=True)
class Call:
    """A kernel called in place of a group, or of a part of it.

    Attributes:
        dims: the kernel's own dims, in its order, over the group's symbols, folded.
        operands: likewise.
    """

    kernel: str
    group: str
    dims: Mapping[str, Expr]
    operands: tuple[Slot, ...]

    def over_symbols(self, expr: Expr) -> Expr:
        """An expression over the kernel's dims over the group's symbols, folded; CompileError if it reads others."""
        return _over(self.dims, expr, self.kernel, self.group)


def call_of(
    kernel: str, own_dims: Sequence[str], group: Function, dims: Mapping[str, Expr], operands: Sequence[Slot]
) -> Call:
    """The call that a match describes.

    Args:
        own_dims: names of the kernel's dims.
        dims: what each of them is, over the group's symbols.

    Raises:
        CompileError: an expression reads a symbol that the group does not have.
    """
    symbols = {name: name for name in group.dims}
    bound = {name: _over(symbols, dims[name], kernel, group.name) for name in own_dims}
    slots = tuple(Slot(s.side, s.index, _over(symbols, s.offset, kernel, group.name)) for s in operands)
    return Call(kernel, group.name, bound, slots)


def _over(names: Mapping[str, Expr], expr: Expr, kernel: str, group: str) -> Expr:
    try:
        return substitute(expr, names)
    except KeyError as error:
        raise CompileError(
            f"kernel {kernel} reads a dim that @{group} does not give it",
            expected=f"one of {', '.join(names) or 'no dims'}",
            found=str(error.args[0]),
        ) from error
