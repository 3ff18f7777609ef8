"""Rotary embedding of q and k, with k and v written to their slots of the KV pages: one tile per token.

q, k and v are ranges of columns of matrices [T, stride]: of one fused projection, or of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.groups import (
    Columns,
    columns_of,
    input_slot,
    kv_slot,
    refuse_activations,
    refuse_cache,
    result_slot,
    static,
)
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import LANES, Value, convert_int
from warploom.ir.function import Function
from warploom.ir.ops.attention import kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import type_of

KIND = "rope_kv_write"
PAGE = 16


@dataclass(frozen=True, slots=True)
class Range:
    """Columns from `start` on of a matrix [T, stride]."""

    start: int
    stride: int

    def __str__(self) -> str:
        return f"{self.start}of{self.stride}"


@dataclass(frozen=True, slots=True)
class RopeKvWriteSpec:
    """k and v [T, num_kv_heads, head_dim] into pages of kv_dtype, k rotated; q [T, num_heads, head_dim] rotated.

    Without q (None) num_heads is 0, and only the cache is written.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_dtype: str
    q: Range | None
    k: Range
    v: Range

    dims = ("T",)
    tiles = "T"

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        shape = f"{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"
        sources = f"k{self.k}_v{self.v}" if self.q is None else f"q{self.q}_k{self.k}_v{self.v}"
        return f"rope_kv_write_{self.kv_dtype}_{shape}_{sources}"

    @property
    def flops(self) -> str:
        """Three per element of q and k."""
        return f"T * {3 * (self.num_heads + self.num_kv_heads) * self.head_dim}"

    @property
    def bytes(self) -> str:
        """q, k and v in and out, and the angles."""
        written = 2 * self.num_kv_heads * (4 + ELEMENT_BYTES[self.kv_dtype])
        return f"T * {(8 * self.num_heads + written + 4) * self.head_dim}"

    @property
    def scratch_bytes(self) -> int:
        """One rotated head of k."""
        return 4 * self.head_dim

    def emit(self, library: Library) -> None:
        """Operands: q (if any), k, v, cos, sin, slots, kv (at the layer), rotated q (if any)."""
        inputs = {"k": "f32", "v": "f32", "cos": "f32", "sin": "f32", "slots": "i32", "kv": self.kv_dtype}
        operands = inputs if self.q is None else {"q": "f32", **inputs, "rotated": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as token:
            angles = self._load_angles(k, token)
            if self.q is not None:
                source = k.operands["q"].at(token * self.q.stride + self.q.start)
                target = k.operands["rotated"].at(token * (self.num_heads * self.head_dim))
                with loop(0, self.num_heads) as head:
                    _rotate(source.at(head * self.head_dim), angles, target.at(head * self.head_dim))
            slot = k.operands["slots"][token]
            with when(slot >= 0):
                self._write_slot(k, token, convert_int(slot, "i64"), angles)

    def _load_angles(self, k: Kernel, token: Value) -> list[tuple[Value, Value]]:
        """cos and sin of the token, a vector per 8 or 16 pairs."""
        half = self.head_dim // 2
        lanes = LANES if half % LANES == 0 else LANES // 2
        cos, sin = (k.operands[name].at(token * half) for name in ("cos", "sin"))
        return [(cos.load(i, lanes), sin.load(i, lanes)) for i in range(0, half, lanes)]

    def _write_slot(self, k: Kernel, token: Value, slot: Value, angles: Sequence[tuple[Value, Value]]) -> None:
        """Keys go to column slot % 16 of [head_dim, 16], values to row slot % 16 of [16, head_dim]."""
        size, offset = self.head_dim, slot & (PAGE - 1)
        page = k.operands["kv"].at((slot >> 4) * (2 * self.num_kv_heads * PAGE * size))
        keys = k.operands["k"].at(token * self.k.stride + self.k.start)
        values = k.operands["v"].at(token * self.v.stride + self.v.start)
        rotated, bits = k.scratch.cast(self.kv_dtype), "i32" if self.kv_dtype == "f32" else "i16"
        with loop(0, self.num_kv_heads) as head:
            _rotate(keys.at(head * size), angles, rotated)
            column = page.at(head * (PAGE * size) + offset).cast(bits)
            with loop(0, size) as i:
                column[i * PAGE] = rotated.cast(bits)[i]
            row = page.at((head + self.num_kv_heads) * (PAGE * size) + offset * size)
            for lane in range(0, size, LANES):
                row.store(lane, values.load(head * size + lane))


def _rotate(x: Ptr, angles: Sequence[tuple[Value, Value]], out: Ptr) -> None:
    """Pairs (i, i + D/2) of one head, each product and sum rounded, as in the numpy meaning."""
    lanes = angles[0][0].lanes
    half = lanes * len(angles)
    for i, (cos, sin) in enumerate(angles):
        low, high = x.load(i * lanes, lanes), x.load(half + i * lanes, lanes)
        out.store(i * lanes, low * cos - high * sin)
        out.store(half + i * lanes, high * cos + low * sin)


def match(group: Function) -> Match | str:
    """The kernel of a `kv_write` of a rotated k with, possibly, one rotated q by the same angles; else why not."""
    write = next((op for op in group.ops if is_op(op, kv_write)), None)
    if write is None:
        return "there is no kv_write"
    kv, k, v, slots = write.operands
    rotation = producer(k, rope)
    if rotation is None:
        return "k is not rotated in the group"
    attrs, angles = kv_write.attrs_of(write), list(rotation.operands)[1:]
    tokens, num_kv_heads, head_dim = type_of(k).shape
    queries = [value for value in group.results.values() if value != write.results[0]]
    refusal = refuse_activations(k, v, *queries) or refuse_cache(kv, head_dim, attrs["page_size"], attrs["k_layout"])
    if refusal is not None:
        return refusal
    sources = _sources([*queries, rotation.results[0]], v, angles)
    if isinstance(sources, str):
        return sources
    *rotated, values = sources
    q = _range(rotated[0]) if queries else None
    shape = (static(type_of(queries[0]).shape[1]) if queries else 0, static(num_kv_heads), static(head_dim))
    spec = RopeKvWriteSpec(*shape, type_of(kv).dtype.value, q, _range(rotated[-1]), _range(values))
    operands = (
        *(input_slot(group, source.matrix) for source in sources),
        *(input_slot(group, value) for value in (*angles, slots)),
        kv_slot(group, kv, attrs["layer"]),
        *(result_slot(group, value) for value in queries),
    )
    return Match(spec, operands, {"T": str(tokens)})


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
