"""Rotary embedding of q and k, with k and v written to their slots of the KV pages.

A block takes a few heads of one token. q, k and v are ranges of columns of matrices [T, stride]: of one fused
projection, or of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cpu.kernels.groups import Columns, columns_of, input_slot, kv_slot, result_slot, static
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE
from warploom.ir.function import Function
from warploom.ir.ops.attention import kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

KIND = "rope_kv_write"
HEADS = 4  # of a block


@dataclass(frozen=True, slots=True)
class Range:
    """Columns from `start` on of a matrix [T, stride]."""

    start: int
    stride: int

    def __str__(self) -> str:
        return f"{self.start}of{self.stride}"


@dataclass(frozen=True, slots=True)
class RopeKvWriteSpec:
    """k and v [T, num_kv_heads, head_dim] into pages of dtype kv, k rotated; q [T, num_heads, head_dim] rotated.

    Products are rounded once, to x, the dtype of q, k and v. Without q (None) num_heads is 0, and only the cache is
    written.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    x: DType
    kv: DType
    q: Range | None
    k: Range
    v: Range
    pdl: bool

    @property
    def name(self) -> str:
        shape = f"{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"
        sources = f"k{self.k}_v{self.v}" if self.q is None else f"q{self.q}_k{self.k}_v{self.v}"
        return f"rope_kv_write_{self.x}_{self.kv}_{shape}_{sources}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        q = [] if self.q is None else [Pointer("q", self.x)]
        angles = Pointer("cos", DType.F32), Pointer("sin", DType.F32)
        written = [Pointer("kv", self.kv), *([] if self.q is None else [Pointer("rotated", self.x)])]
        return (*q, Pointer("k", self.x), Pointer("v", self.x), *angles, Pointer("slots", DType.I32), *written)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def q_blocks(self) -> int:
        """Blocks of heads of q; blocks of heads of k and v follow."""
        return -(-self.num_heads // HEADS)

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", self.q_blocks + -(-self.num_kv_heads // HEADS), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=1 if self.head_dim <= 64 else 2, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{3 * (self.num_heads + self.num_kv_heads) * self.head_dim} * T"

    @property
    def bytes(self) -> str:
        read, written = self.x.numpy.itemsize, self.kv.numpy.itemsize
        heads = 2 * read * self.num_heads + 2 * (read + written) * self.num_kv_heads
        return f"{(heads + 4) * self.head_dim} * T"

    def source(self) -> str:
        half = self.head_dim // 2
        return render(
            "rope_kv_write.py.j2",
            spec=self,
            heads=HEADS,
            block=1 << (half - 1).bit_length(),
            half=half,
            page_size=PAGE_SIZE,
        )

    def __str__(self) -> str:
        heads = f"{self.num_heads} q and {self.num_kv_heads} k heads of {self.head_dim}"
        return f"rotary embedding of {heads}, k and v to their pages"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a `kv_write` of a rotated k with, possibly, one rotated q by the same angles; else why not."""
    write = next((op for op in group.ops if is_op(op, kv_write)), None)
    if write is None:
        return "there is no kv_write"
    kv, k, v, slots = write.operands
    rotation = producer(k, rope)
    if rotation is None:
        return "k is not rotated in the group"
    attrs, angles = kv_write.attrs_of(write), list(rotation.operands)[1:]
    if 2 * static(type_of(angles[0]).shape[1]) != type_of(k).shape[2]:
        return "there is no kernel for heads that are rotated in part yet"
    queries = [value for value in group.results.values() if value != write.results[0]]
    if attrs["page_size"] != PAGE_SIZE or attrs["k_layout"] != K_LAYOUT:
        return f"pages must be {PAGE_SIZE} tokens, {K_LAYOUT}; here {attrs['page_size']}, {attrs['k_layout']}"
    if len({type_of(value).dtype for value in (k, v, *queries)}) > 1:
        return "q, k and v differ in dtype"
    sources = _sources([*queries, rotation.results[0]], v, angles)
    if isinstance(sources, str):
        return sources
    *rotated, values = sources
    tokens, num_kv_heads, head_dim = type_of(k).shape
    spec = RopeKvWriteSpec(
        static(type_of(queries[0]).shape[1]) if queries else 0,
        static(num_kv_heads),
        static(head_dim),
        type_of(k).dtype,
        type_of(kv).dtype,
        _range(rotated[0]) if queries else None,
        _range(rotated[-1]),
        _range(values),
        target.has_tma,
    )
    operands = (
        *(input_slot(group, source.matrix) for source in sources),
        *(input_slot(group, value) for value in (*angles, slots)),
        kv_slot(group, kv, attrs["layer"]),
        *(result_slot(group, value) for value in queries),
    )
    return one_launch(spec, operands, {"T": str(tokens)})


def _sources(rotated: Sequence[mlir.Value], v: mlir.Value, angles: list[mlir.Value]) -> list[Columns] | str:
    """Where the values to be rotated, at most q and k, and v come from."""
    rotations = [producer(value, rope) for value in rotated]
    if len(rotated) > 2 or any(op is None or list(op.operands)[1:] != angles for op in rotations):
        return "of the group's results only the cache and one q, rotated as k, can be written"
    sources = [columns_of(value) for value in (*(op.operands[0] for op in rotations if op is not None), v)]
    refusals = [source for source in sources if isinstance(source, str)]
    return refusals[0] if refusals else [source for source in sources if isinstance(source, Columns)]


def _range(columns: Columns) -> Range:
    return Range(columns.start, columns.stride)
