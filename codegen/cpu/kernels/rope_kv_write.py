"""Rotary embedding of q and k, if any, with k and v written to their slots of the KV pages: one tile per token.

q, k and v are ranges of columns of matrices [T, stride]: of one fused projection, or of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.columns import Columns, Range, columns_of
from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.refusals import refuse_activations, refuse_cache
from warploom.codegen.cpu.kernels.row_i8 import round_row_to_i8
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr, first_lanes
from warploom.codegen.cpu.values import LANES, Value, convert_int, maximum, minimum
from warploom.codegen.groups import input_slot, kv_slot, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.kv_write import F8_MAX, kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.ops.scaled_cache import WRITES
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import type_of

KIND = "rope_kv_write"
PAGE = 16
Angles = Sequence[tuple[Value, Value]]


@dataclass(frozen=True, slots=True)
class RopeKvWriteSpec:
    """k and v [T, num_kv_heads, head_dim] into pages of kv_dtype, k rotated; q [T, num_heads, head_dim] rotated.

    The first `rotary_dim` elements of a head are rotated, none if it is 0. Without q (None) num_heads is 0, and only
    the cache is written. `scaled`: on scales [2, num_kv_heads], of the keys and the values of each head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    kv_dtype: str
    q: Range | None
    k: Range
    v: Range
    scaled: bool = False

    dims = ("T",)
    tiles = "T"

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        rotated = "" if self.rotary_dim == self.head_dim else f"r{self.rotary_dim}"
        shape = f"{self.num_heads}x{self.num_kv_heads}x{self.head_dim}{rotated}"
        sources = f"k{self.k}_v{self.v}" if self.q is None else f"q{self.q}_k{self.k}_v{self.v}"
        return f"rope_kv_write_{self.kv_dtype}{'_scaled' if self.scaled else ''}_{shape}_{sources}"

    @property
    def flops(self) -> str:
        """Three per element of q and k."""
        return f"T * {3 * (self.num_heads + self.num_kv_heads) * self.rotary_dim}"

    @property
    def bytes(self) -> str:
        """q, k and v in and out, and the angles."""
        written = 2 * self.num_kv_heads * (4 + ELEMENT_BYTES[self.kv_dtype])
        return f"T * {(8 * self.num_heads + written) * self.head_dim + 4 * self.rotary_dim}"

    @property
    def scratch_bytes(self) -> int:
        """One rotated head of k, and its numbers of an i8 cache."""
        return 5 * self.head_dim

    def emit(self, library: Library) -> None:
        """Operands: q (if any), k, v, cos and sin, slots, scales (if any), kv (at the layer), rotated q (if any)."""
        angle_tables = {"cos": "f32", "sin": "f32"} if self.rotary_dim else {}
        scales = {"scales": "f32"} if self.scaled else {}
        inputs = {"k": "f32", "v": "f32", **angle_tables, "slots": "i32", **scales, "kv": self.kv_dtype}
        operands = inputs if self.q is None else {"q": "f32", **inputs, "rotated": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as token:
            angles = self._load_angles(k, token)
            if self.q is not None:
                source = k.operands["q"].at(token * self.q.stride + self.q.start)
                target = k.operands["rotated"].at(token * (self.num_heads * self.head_dim))
                with loop(0, self.num_heads) as head:
                    self._rotate(source.at(head * self.head_dim), angles, target.at(head * self.head_dim))
            slot = k.operands["slots"][token]
            with when(slot >= 0):
                self._write_slot(k, token, convert_int(slot, "i64"), angles)

    @property
    def _lanes(self) -> int:
        """Pairs that are rotated at once; where they do not divide half of `rotary_dim`, the last vector is masked."""
        return LANES if self.rotary_dim // 2 % (LANES // 2) or self.rotary_dim % (2 * LANES) == 0 else LANES // 2

    def _vectors(self) -> Iterator[tuple[int, Value | None]]:
        """First pair and mask of each vector of pairs."""
        half = self.rotary_dim // 2
        for i in range(0, half, self._lanes):
            yield i, None if half - i >= self._lanes else first_lanes(half - i, self._lanes)

    def _load_angles(self, k: Kernel, token: Value) -> list[tuple[Value, Value]]:
        """cos and sin of the token, a vector per 8 or 16 pairs."""
        if not self.rotary_dim:
            return []
        cos, sin = (k.operands[name].at(token * (self.rotary_dim // 2)) for name in ("cos", "sin"))
        return [(cos.load(i, self._lanes, mask), sin.load(i, self._lanes, mask)) for i, mask in self._vectors()]

    def _rotate(self, x: Ptr, angles: Angles, out: Ptr, scale: Value | None = None) -> None:
        """Pairs (i, i + R/2) of one head, each product and sum rounded, as in the numpy meaning; the rest as it is.

        What is written is divided by the scale, if there is one.
        """
        half, lanes = self.rotary_dim // 2, self._lanes
        for (i, mask), (cos, sin) in zip(self._vectors(), angles, strict=True):
            low, high = x.load(i, lanes, mask), x.load(half + i, lanes, mask)
            out.store(i, _stored(out, low * cos - high * sin, scale), mask)
            out.store(half + i, _stored(out, high * cos + low * sin, scale), mask)
        for i in range(self.rotary_dim, self.head_dim, LANES):
            mask = None if self.head_dim - i >= LANES else first_lanes(self.head_dim - i)
            out.store(i, _stored(out, x.load(i, LANES, mask), scale), mask)

    def _write_slot(self, k: Kernel, token: Value, slot: Value, angles: Angles) -> None:
        """Keys go to column slot % 16 of [head_dim, 16], values to row slot % 16 of [16, head_dim]."""
        block = PAGE * (self.head_dim + (1 if self.kv_dtype == "i8" else 0))
        page = k.operands["kv"].at((slot >> 4) * (2 * self.num_kv_heads * block))
        keys = k.operands["k"].at(token * self.k.stride + self.k.start)
        values = k.operands["v"].at(token * self.v.stride + self.v.start)
        with loop(0, self.num_kv_heads) as head:
            at = head * self.head_dim
            blocks = page.at(head * block), page.at((head + self.num_kv_heads) * block)
            place = k.scratch, keys.at(at), values.at(at), blocks, slot & (PAGE - 1), angles
            if self.kv_dtype == "i8":
                self._write_i8(*place)
            else:
                heads = head, head + self.num_kv_heads
                self._write_floats(*place, [k.operands["scales"][i] if self.scaled else None for i in heads])

    def _write_floats(
        self,
        scratch: Ptr,
        key: Ptr,
        value: Ptr,
        blocks: tuple[Ptr, Ptr],
        offset: Value,
        angles: Angles,
        scales: Sequence[Value | None],
    ) -> None:
        size, bits = self.head_dim, f"i{8 * ELEMENT_BYTES[self.kv_dtype]}"
        rotated = scratch.cast(self.kv_dtype)
        self._rotate(key, angles, rotated, scales[0])
        column = blocks[0].at(offset).cast(bits)
        with loop(0, size) as i:
            column[i * PAGE] = rotated.cast(bits)[i]
        row = blocks[1].at(offset * size)
        for lane in range(0, size, LANES):
            row.store(lane, _stored(row, value.load(lane), scales[1]))

    def _write_i8(
        self, scratch: Ptr, key: Ptr, value: Ptr, blocks: tuple[Ptr, Ptr], offset: Value, angles: Angles
    ) -> None:
        """On a power of two each, which is the last row of keys and follows the values."""
        size = self.head_dim
        rotated, numbers = scratch.cast("f32"), scratch.cast("i8").at(4 * size)
        column, row = blocks[0].at(offset), blocks[1].at(offset * size)
        self._rotate(key, angles, rotated)
        column[size * PAGE] = round_row_to_i8(rotated, size, numbers.store)
        with loop(0, size) as i:
            column[i * PAGE] = numbers[i]
        blocks[1].at(offset)[size * PAGE] = round_row_to_i8(value, size, row.store)


def _stored(out: Ptr, value: Value, scale: Value | None) -> Value:
    """What a cache holds of a value on a scale: in FP8, rounding beyond F8_MAX would make a NaN."""
    if scale is not None:
        value = value / scale
    return minimum(maximum(value, -F8_MAX), F8_MAX) if out.element == "f8e4m3" else value


def match(group: Function) -> Match | str:
    """The kernel of a `kv_write`, possibly of a rotated k, and with one q rotated by the same angles; else why not."""
    write = next((op for op in group.ops if is_op(op, *WRITES)), None)
    if write is None:
        return "there is no kv_write"
    kv, k, v, slots, *scales = write.operands
    rotation = producer(k, rope)
    attrs, angles = kv_write.attrs_of(write), [] if rotation is None else list(rotation.operands)[1:]
    tokens, num_kv_heads, head_dim = type_of(k).shape
    queries = [value for value in group.results.values() if value != write.results[0]]
    refusal = refuse_activations(k, v, *queries) or refuse_cache(kv, head_dim, attrs["page_size"], attrs["k_layout"])
    if refusal is not None:
        return refusal
    sources = _sources([*queries, k], v, angles)
    if isinstance(sources, str):
        return sources
    *rotated, values = sources
    q = rotated[0].range if queries else None
    shape = (static(type_of(queries[0]).shape[1]) if queries else 0, static(num_kv_heads), static(head_dim))
    rotary_dim = 2 * static(type_of(angles[0]).shape[1]) if angles else 0
    ranges = q, rotated[-1].range, values.range
    spec = RopeKvWriteSpec(*shape, rotary_dim, type_of(kv).dtype.value, *ranges, bool(scales))
    operands = (
        *(input_slot(group, source.matrix) for source in sources),
        *(input_slot(group, value) for value in (*angles, slots, *scales)),
        kv_slot(group, kv, attrs["layer"]),
        *(result_slot(group, value) for value in queries),
    )
    return Match(spec, operands, {"T": str(tokens)})


def _sources(rotated: Sequence[mlir.Value], v: mlir.Value, angles: list[mlir.Value]) -> list[Columns] | str:
    """Where the values to be rotated, at most q and k, and v come from; without angles k is as it is."""
    rotations = [producer(value, rope) for value in rotated]
    strange = any(op is None or list(op.operands)[1:] != angles for op in rotations) if angles else len(rotated) > 1
    if len(rotated) > 2 or strange:
        return "of the group's results only the cache and one q, rotated as k, can be written"
    plain = [value if op is None else op.operands[0] for value, op in zip(rotated, rotations, strict=True)]
    sources = [columns_of(value) for value in (*plain, v)]
    refusals = [source for source in sources if isinstance(source, str)]
    return refusals[0] if refusals else [source for source in sources if isinstance(source, Columns)]
