"""The body of attention on the CPU: the rows of a tile over blocks of keys, with a running softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.kernels.ragged import load_index
from warploom.codegen.cpu.kernels.register_product import multiply, register_blocks, scalars, vectors
from warploom.codegen.cpu.kernels.row_i8 import power
from warploom.codegen.cpu.math import exp, tanh
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    constant,
    convert_int,
    fma,
    iota,
    maximum,
    minimum,
    reduce_add,
    reduce_max,
    select,
    to_f32,
)

if TYPE_CHECKING:
    from warploom.codegen.cpu.kernels.attention import AttentionSpec

PAGE = 16
BLOCK_PAGES = 4
BLOCK = BLOCK_PAGES * PAGE  # keys per step of the online softmax
MASKED = -1e30


@dataclass(frozen=True, slots=True)
class Rows:
    """`tokens` consecutive tokens of one sequence times the heads of a tile; row = token * heads + head.

    `falling` is by how much scores of each query head fall from key to key, f32 [num_heads], or None (see `alibi`).

    Scratch, f32: scores [rows, 64], out [rows, head_dim], sums [rows, 16], maxima [rows], decay [rows].
    """

    spec: AttentionSpec
    k: Kernel
    tokens: int
    first: Value
    group: Value
    sequence: Value
    falling: Ptr | None = None

    @property
    def count(self) -> int:
        """Rows."""
        return self.tokens * self.spec.heads

    @property
    def scores(self) -> Ptr:
        """Of the block of keys; then weights."""
        return self.k.scratch.cast("f32")

    @property
    def out(self) -> Ptr:
        """Sums of weighted values."""
        return self.scores.at(self.count * BLOCK)

    @property
    def sums(self) -> Ptr:
        """Of weights, by lanes."""
        return self.out.at(self.count * self.spec.head_dim)

    @property
    def maxima(self) -> Ptr:
        """The largest score of each row so far."""
        return self.sums.at(self.count * LANES)

    @property
    def decay(self) -> Ptr:
        """What a row's state is multiplied with for a block."""
        return self.maxima.at(self.count)

    @property
    def values_at(self) -> tuple[int, int]:
        """Where the values of a page are, from its keys on, and from one value to the next."""
        return self.spec.num_kv_heads * self.spec.block, self.spec.head_dim

    def row_offset(self, row: int) -> int:
        """Of a row in q and in the result, from the tile's first row."""
        token, head = divmod(row, self.spec.heads)
        return (token * self.spec.num_heads + head) * self.spec.head_dim

    def emit(self) -> None:
        """Attend all visible keys and write the rows."""
        spec, starts = self.spec, self.k.operands["query_start"]
        context = load_index(self.k.operands["context_lens"], self.sequence)
        position = context - load_index(starts, self.sequence + 1) + self.first  # of the first token
        stop = position + self.tokens  # keys that the last token sees
        begin = maximum(position - (spec.window - 1), 0) if spec.window else constant(0, "i64")
        self.reset()
        with loop(begin // BLOCK * BLOCK, stop, BLOCK) as block:
            pages = self.find_pages(block, stop)
            self.score(pages)
            with loop(0, self.count) as row:  # nested in two loops, LLVM prefers its constants to totals in registers
                self.update_softmax(row, position + row // spec.heads - block)
            self.scale_weights(pages)
            self.add_values(pages, maximum(begin - block, 0), minimum(stop - block, BLOCK))
        self.write()

    def reset(self) -> None:
        """No key seen: output and sums 0, maximum lowest; or the sink alone."""
        with loop(0, self.count * (self.spec.head_dim + LANES), LANES) as i:
            self.out.store(i, constant(0.0, "f32", LANES))
        for row in range(self.count):
            if self.spec.sinks:
                head = self.group * self.spec.heads + row % self.spec.heads
                self.maxima[row] = self.k.operands["sinks"][head]
                self.sums[row * LANES] = constant(1.0, "f32")
            else:
                self.maxima[row] = constant(MASKED, "f32")

    @property
    def kv_head(self) -> Value:
        """Whose keys the tile attends."""
        return self.group * self.spec.heads // (self.spec.num_heads // self.spec.num_kv_heads)

    def static_scale(self, which: int) -> Value:
        """Of the keys (0) or values (1) of the tile's head."""
        return self.k.operands["scales"][self.kv_head + which * self.spec.num_kv_heads]

    def find_pages(self, block: Value, stop: Value) -> list[Ptr]:
        """The pages of a block of keys, at the tile's kv head; past the last page, that page again (masked later)."""
        spec = self.spec
        kv_head = self.kv_head
        table = self.k.operands["page_table"].at(self.sequence * self.k.dims["P"])
        last = (stop - 1) >> 4
        indices = [load_index(table, minimum((block >> 4) + i, last)) for i in range(BLOCK_PAGES)]
        return [self.k.operands["kv"].at((index * (2 * spec.num_kv_heads) + kv_head) * spec.block) for index in indices]

    def score(self, pages: Sequence[Ptr]) -> None:
        """scores[row, key] = q[row] . k[key], dims in order."""
        spec = self.spec
        q = self.k.operands["q"].at((self.first * spec.num_heads + self.group * spec.heads) * spec.head_dim)
        for rows, columns in register_blocks(self.count, BLOCK_PAGES, self.k.isa):
            totals = multiply(
                [constant(0.0, "f32", LANES) for _ in rows for _ in columns],
                (0, spec.head_dim),
                [scalars(q.at(self.row_offset(row))) for row in rows],
                [vectors(pages[column], PAGE) for column in columns],
            )
            scales = {column: self.scales(pages[column]) for column in columns}
            for total, (row, column) in zip(totals, product(rows, columns), strict=True):
                scale = scales[column]
                self.scores.store(row * BLOCK + column * LANES, total if scale is None else total * scale)

    def scales(self, block: Ptr) -> Value | None:
        """What the numbers of each key or value of a page are multiplied with, if anything."""
        last = PAGE * self.spec.head_dim
        return power(block.load(last)) if self.spec.kv_dtype == "i8" else None

    def scale_weights(self, pages: Sequence[Ptr]) -> None:
        """Take the scales of values into the weights, of which the sums are made already."""
        shift, _ = self.values_at
        for number, page in enumerate(pages):
            scale = self.scales(page.at(shift))
            if scale is not None:
                with loop(0, self.count) as row:
                    place = row * BLOCK + number * LANES
                    self.scores.store(place, self.scores.load(place) * scale)

    def update_softmax(self, row: Value, visible: Value) -> None:
        """Scores of a row become weights; keys of the block up to `visible` (and in the window) count."""
        keys, visible = iota(), convert_int(visible, "i32")
        values, masks = [], []
        for i in range(BLOCK_PAGES):
            mask = keys + i * LANES <= visible
            if self.spec.window:
                mask = mask & (keys + i * LANES > visible - self.spec.window)
            raw = self.scores.load(row * BLOCK + i * LANES) * self.spec.scale
            if self.spec.scaled:
                raw = raw * self.static_scale(0)
            if cap := self.spec.softcap:
                raw = tanh(raw * (1 / cap)) * cap
            if self.falling is not None:
                slope = self.falling[self.group * self.spec.heads + row % self.spec.heads]
                raw = fma(to_f32(keys + i * LANES - visible), slope, raw)
            values.append(select(mask, raw, MASKED))
            masks.append(mask)
        old = self.maxima[row]
        peak = maximum(reduce_max(maximum(maximum(values[0], values[1]), maximum(values[2], values[3]))), old)
        weights = [select(mask, exp(value - peak), 0.0) for value, mask in zip(values, masks, strict=True)]
        for i, weight in enumerate(weights):
            self.scores.store(row * BLOCK + i * LANES, weight)
        decay = exp(old - peak)
        total = (weights[0] + weights[1]) + (weights[2] + weights[3])
        self.sums.store(row * LANES, fma(self.sums.load(row * LANES), decay, total))
        self.maxima[row] = peak
        self.decay[row] = decay

    def add_values(self, pages: Sequence[Ptr], begin: Value, end: Value) -> None:
        """out[row] = out[row] * decay[row] + sum over keys [begin, end) of weight * v[key], keys in order."""
        size, (shift, stride) = self.spec.head_dim, self.values_at
        for rows, columns in register_blocks(self.count, size // LANES, self.k.isa):
            state = [
                self.out.load(row * size + column * LANES) * self.decay[row] for row, column in product(rows, columns)
            ]
            for number, page in enumerate(pages):
                low, high = (minimum(maximum(x - number * PAGE, 0), PAGE) for x in (begin, end))
                state = multiply(
                    state,
                    (low, high),
                    [scalars(self.scores.at(row * BLOCK + number * PAGE)) for row in rows],
                    [vectors(page.at(shift + column * LANES), stride) for column in columns],
                )
            for total, (row, column) in zip(state, product(rows, columns), strict=True):
                self.out.store(row * size + column * LANES, total)

    def write(self) -> None:
        """Divide by the sums."""
        spec = self.spec
        target = self.k.operands["out"].at((self.first * spec.num_heads + self.group * spec.heads) * spec.head_dim)
        for row in range(self.count):
            inverse = (self.static_scale(1) if spec.scaled else 1.0) / reduce_add(self.sums.load(row * LANES))
            for i in range(0, spec.head_dim, LANES):
                target.store(self.row_offset(row) + i, self.out.load(row * spec.head_dim + i) * inverse)
