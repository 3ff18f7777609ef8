"""The launch plan of one target: what a device runs, as data. Written by codegen, read by the runtime.

Sizes, offsets and tile counts are expressions over the entry's dims (see `expr`), so one plan serves every
shape within the dims' ranges. Arrays are row-major and dense.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from warploom.runtime.expr import Expr

BufferKind: TypeAlias = Literal["input", "param", "result", "temp", "view"]


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
            buffer from an offset to its end (one layer and what follows of the KV cache).
        dtype: f32, bf16, f16, i32, i8, i64, i1, u8.
        shape: expressions over the entry's dims.
        offset: a byte offset, an expression: in the arena (64-byte aligned), or of a view in what it aliases;
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


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel call: `tiles` independent tiles over `operands` (buffer names, never of a result that aliases).

    Attributes:
        dims: the values of the kernel's own dims, in the kernel's order: expressions over the entry's dims.
        location: the module path in the model, such as `model.layers.3.mlp`.
    """

    kernel: str
    operands: list[str]
    dims: list[Expr]
    tiles: Expr
    location: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One native function of the artifact.

    Attributes:
        dims: ranges by name; their order is the order of the ABI's `dims` array.
        externals: inputs and params; their order is the order of the ABI's `buffers` array.
        arena_bytes: size of the scratch arena that temps and results live in, an expression.
    """

    dims: dict[str, DimRange]
    externals: list[str]
    buffers: list[Buffer]
    launches: list[Launch]
    arena_bytes: Expr


class KernelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a kernel is, for `inspect` and `bench`.

    Attributes:
        source: path of its readable source in the artifact.
        dims: names of its own dims; a launch gives their values.
        flops, bytes: work of one launch, expressions over the kernel's own dims.
    """

    kind: str
    summary: str
    source: str
    dims: list[str]
    flops: Expr
    bytes: Expr


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All entries (`step`, `sample`, `logprobs`) and all kernels of one target."""

    entries: dict[str, Entry]
    kernels: dict[str, KernelInfo]
