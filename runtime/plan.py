"""The launch plan of one target: what a device runs, as data. Written by codegen, read by the runtime.

Sizes, offsets and tile counts are expressions over the entry's dims (see `expr`), so one plan serves every
shape within the dims' ranges. Arrays are row-major and dense.

On CUDA every buffer has one address, whatever the dims: offsets are evaluated at the dims' maxima (an arena that is
laid out for these holds the arrays of all smaller dims), so that addresses can be baked into graphs and tensor maps.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from warploom.runtime.expr import Expr

BufferKind: TypeAlias = Literal["input", "param", "result", "temp", "view", "zeroed"]


class DimRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values that a dim may take: `min <= value <= max` and `value % multiple_of == 0`."""

    min: int
    max: int
    multiple_of: int = 1


class Buffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of an entry.

    Names are unique, save that a result which aliases an input may bear the input's name.

    Attributes:
        kind: temps, and results that alias nothing, live in the entry's arena. A view is the bytes of another
            buffer from an offset to its end (one layer and what follows of the KV cache). What is zeroed lives in
            the entry's second arena, which is filled with zeros once, at load; every launch leaves it zero.
        dtype: f32, bf16, f16, f8e4m3, i32, i8, i64, i1, u8.
        shape: expressions over the entry's dims.
        offset: a byte offset, an expression: in its arena (64-byte aligned), or of a view in what it aliases;
            None for what lives elsewhere (inputs, params, results that alias).
        aliases: the buffer whose memory this is: of a view; or of a result that is a donated input updated in
            place, an input or param handed through, or another result again.
    """

    name: str
    kind: BufferKind
    dtype: str
    shape: list[Expr]
    offset: Expr | None = None
    aliases: str | None = None


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The condition `min <= value <= max` on an expression over the entry's dims, mostly one dim."""

    value: Expr
    min: int
    max: int


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel call: `tiles` independent tiles over `operands` (buffer names, never of a result that aliases).

    Attributes:
        dims: the values of the kernel's own dims, in the kernel's order: expressions over the entry's dims.
        location: the module path in the model, such as `model.layers.3.mlp`.
        grid: CUDA: the three extents of the grid of thread blocks that the tiles are; a launch with an extent of 0
            is left out.
        when: the launch runs only if this holds: kernels of one computation for different ranges of a dim have
            guards of which exactly one holds, whatever the dims.
    """

    kernel: str
    operands: list[str]
    dims: list[Expr]
    tiles: Expr
    location: str
    grid: list[Expr] = []
    when: Guard | None = None


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One launch in place of several, on CUDA: on GPUs that hold all its blocks at once, and where its guard holds.

    Attributes:
        launch: takes the place of the last of them; its `when` is not None.
        replaces: places in the entry's launches, rising.
        multiprocessors: that a GPU must have; on one with fewer the others run.
    """

    launch: Launch
    replaces: list[int]
    multiprocessors: int


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One native function of the artifact.

    Attributes:
        dims: ranges by name; their order is the order of the ABI's `dims` array.
        externals: inputs and params; their order is the order of the ABI's `buffers` array.
        arena_bytes: size of the scratch arena that temps and results live in, an expression.
        zeroed_bytes: size of the arena that zeroed buffers live in, an expression.
        replacements: of disjoint launches.
    """

    dims: dict[str, DimRange]
    externals: list[str]
    buffers: list[Buffer]
    launches: list[Launch]
    arena_bytes: Expr
    zeroed_bytes: Expr = 0
    replacements: list[Replacement] = []


class PointerParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pointer"):
    """The address of the next operand, 64 bit."""


class TensorMapParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tensormap"):
    """A CUtensorMap (128 bytes, 64-byte aligned) of the next operand, then its shape (i32 each) and strides (i64 each).

    Attributes:
        dtype: of the elements: bf16, f32, i8.
        shape: outermost first, expressions over the kernel's own dims, evaluated at the entry's maxima; the array is
            dense, so strides (in elements) follow.
        box: the extents that one copy moves, outermost first.
        swizzle: `CUtensorMapSwizzle`: 0 none, 1 of 32 bytes, 2 of 64, 3 of 128.
    """

    dtype: str
    shape: list[Expr]
    box: list[int]
    swizzle: int


class TableParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="table"):
    """The address of a table on the device: the addresses of the next `count` operands, 64 bit each.

    The operands are at one place in all steps: params, and views of the cache.
    """

    count: int


class DimParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="dim"):
    """The value of the next dim of the launch, i32."""


class CudaInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A compiled CUDA kernel. Two null pointers (Triton's scratch) follow the `params`.

    Attributes:
        cubin, ptx, ttir: paths in the artifact; of CUDA C++ there is no ttir.
        num_warps: a thread block has 32 * num_warps threads.
        shared_bytes: dynamic shared memory of a block.
        registers, spill_bytes: of a thread.
        pdl: the kernel waits for its predecessors itself (griddepcontrol), so it may be launched with programmatic
            stream serialization.
        cooperative: its blocks wait for each other: all of them must be on the GPU at once.
        cluster: blocks that share a part of the GPU, and reach each other's shared memory.
    """

    cubin: str
    ptx: str
    ttir: str | None
    num_warps: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    pdl: bool
    params: list[PointerParam | TensorMapParam | TableParam | DimParam]
    cooperative: bool = False
    cluster: int = 1


class KernelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a kernel is, for `inspect` and `bench`.

    Attributes:
        source: path of its readable source in the artifact.
        dims: names of its own dims; a launch gives their values.
        flops, bytes: work of one launch, expressions over the kernel's own dims.
        cuda: how to launch it, on CUDA.
    """

    kind: str
    summary: str
    source: str
    dims: list[str]
    flops: Expr
    bytes: Expr
    cuda: CudaInfo | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All entries (`step`, `sample`, `logprobs`) and all kernels of one target."""

    entries: dict[str, Entry]
    kernels: dict[str, KernelInfo]
