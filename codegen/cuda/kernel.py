"""What a CUDA kernel family offers, and how its kernels are called in place of a fusion group.

A family is one module in `kernels/` with two names (see `Template`):

    KIND = "linear"                              # the `wl.kind` of the groups it takes

    @dataclass(frozen=True)
    class GemvSpec: ...                          # a `CudaKernelSpec`: all that the source depends on

    def match(group: Function, target: CudaTarget) -> Match | str:   # the kernels, or why this family has none

Equal specs are one kernel. A spec speaks of its own dims; a `Step` says what they are in terms of the symbols of the
group's `wl.dims`. Where a group has several launches, `scope.Scope` finds operands and dims by name.

A group may lower to different kernels by range of a dim (`Variant.when`), and a variant to several launches in order
(`Variant.steps`) that share temps. One launch for all dims is `one_launch(spec, operands, dims)`.

The source of a kernel is Triton, rendered from a file in `sources/` (see `render`): a module that imports triton and
defines `@triton.jit def <name>(<operands>, <dims>)`. Numbers that are known are written as globals,
`BLOCK_K = tl.constexpr(512)`; there are no constexpr parameters. Every buffer is 16-byte aligned at least. Where Triton
cannot say it, a source is Gluon (`@gluon.jit`), which names layouts and asynchronous copies itself; Triton's
interpreter does not run it, so it is checked on a GPU only.

Programmatic dependent launch: with `options.pdl` a kernel starts while its predecessor still runs. It must execute
`gdc_wait()` in every block before it reads what a kernel may have written and before it writes anything at all (this
makes the order of any two kernels transitive); only weights, which nothing writes, inputs of the step other than
`token_ids`, which are copied before its first kernel starts, and what earlier steps left that no kernel of this one
writes, may be read earlier. `gdc_launch_dependents()` comes as early as possible: where what the next kernel loads is
not in the way of what this one loads.

Batch invariance: with `target.deterministic` the numbers of a row must not depend on what else is in the batch: one
variant for all sizes, or variants with equal sequences of float operations per row. Without it, equal batches still
give equal bits: no float atomics, splits that depend on static shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from warploom.codegen.binding import Slot, Temp
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.ir.function import Function
from warploom.ir.types import DType
from warploom.runtime.expr import Expr
from warploom.runtime.plan import Guard

__all__ = [
    "CudaKernelSpec",
    "Guard",
    "Match",
    "Operand",
    "Options",
    "Pointer",
    "Slot",
    "Step",
    "Table",
    "Temp",
    "Template",
    "TensorMap",
    "Variant",
    "one_launch",
]


@dataclass(frozen=True, slots=True)
class Pointer:
    """An operand that the kernel gets as an address: `x` of `*bf16`."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class TensorMap:
    """An operand that the kernel gets as a TMA descriptor made by the host; sm_90 and later.

    In the kernel it is a `tl.tensor_descriptor`: `w.load([row, column])` gives a `block`, zeros outside of `shape`.

    Attributes:
        shape: of the dense array, outermost first, over the kernel's dims at their maxima. Rows past the actual dims
            hold leftovers; a store may overwrite them.
        block: extents of one load or store.
        layout: of the block in shared memory, as Gluon writes it; None: Triton chooses.
    """

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    block: tuple[int, ...]
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Operands that the kernel gets as the address of a table of their addresses, i64; they never move.

    Attributes:
        count: operands of the launch that it stands for.
    """

    name: str
    count: int


Operand: TypeAlias = Pointer | TensorMap | Table


@dataclass(frozen=True, slots=True)
class Options:
    """How Triton compiles a kernel.

    Attributes:
        num_warps: of a thread block.
        num_stages: depth of software pipelining of loops.
        maxnreg: cap on the registers of a thread; None: no cap.
        pdl: the kernel keeps the rules of programmatic dependent launch; sm_90 and later.
        cooperative: its blocks wait for each other, so the GPU must hold all of them at once.
        cluster: blocks that reach each other's shared memory; the source says it too.
        shared_bytes: of a kernel whose source is CUDA C++, which says so by this; None: Triton finds out.
    """

    num_warps: int = 4
    num_stages: int = 1
    maxnreg: int | None = None
    pdl: bool = False
    cooperative: bool = False
    cluster: int = 1
    shared_bytes: int | None = None


class CudaKernelSpec(Protocol):
    """What a kernel is: frozen, hashable, compared by value. `str(spec)` is its one-line description.

    All expressions are over `dims`.
    """

    @property
    def name(self) -> str:
        """Name of the kernel function: readable, a Python and C identifier, and unique to the spec."""

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Its first parameters."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Its last parameters, i32."""

    @property
    def grid(self) -> tuple[Expr, Expr, Expr]:
        """Extents of the grid; an extent of 0 means that there is nothing to do."""

    @property
    def options(self) -> Options:
        """How it is compiled."""

    @property
    def flops(self) -> str:
        """Floating-point operations of one launch."""

    @property
    def bytes(self) -> str:
        """Bytes that one launch must move between memory and the chip at least."""

    def source(self) -> str:
        """The Triton module that defines it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One launch.

    Attributes:
        spec: the kernel.
        operands: what each of `spec.operands` is.
        dims: own dim -> expression over the group's symbols, for every name in `spec.dims`.
    """

    spec: CudaKernelSpec
    operands: tuple[Slot, ...]
    dims: Mapping[str, Expr]


@dataclass(frozen=True, slots=True)
class Variant:
    """Launches, in order, that compute the group where `when` holds."""

    steps: tuple[Step, ...]
    when: Guard | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Kernels that compute a group: exactly one variant holds, whatever the dims.

    Attributes:
        variants: by rising ranges of one value.
        temps: memory that the steps share, `Slot("temp", index)`.
    """

    variants: tuple[Variant, ...]
    temps: tuple[Temp, ...] = ()


def one_launch(spec: CudaKernelSpec, operands: tuple[Slot, ...], dims: Mapping[str, Expr]) -> Match:
    """A kernel for all dims."""
    return Match((Variant((Step(spec, operands, dims),)),))


class Template(Protocol):
    """A module of `kernels/`."""

    KIND: str

    def match(self, group: Function, target: CudaTarget) -> Match | str:
        """The kernels for `group`, or the reason why this family does not take it."""
