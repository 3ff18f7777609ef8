"""Causal attention over KV pages: ragged prefill chunks and decode in one kernel.

Online softmax (Milakov and Gimelshein 2018) over blocks of 64 keys at absolute positions, in order, as in
FlashAttention (Dao et al. 2022). A tile is a few consecutive tokens times the query heads of one kv head, so that a
key or value loaded once serves all their rows. Both products are the same register-blocked loop: scores have the 16
keys of a page as vector lanes (keys lie dim_major), outputs have 16 head dims as lanes.

Batch invariance: which rows share a tile, and how products are blocked in registers, only interleaves rows; the float
operations of one row are fixed by its own position and window. A block that is masked for a row multiplies its state
by exp(0) = 1 and adds zeros. A sink is what a row has seen before its first key: its score is the first maximum, and
exp(0) = 1 the first sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels import groups
from warploom.codegen.cpu.kernels.ragged import find_sequence, load_index
from warploom.codegen.cpu.kernels.register_product import largest_divisor, multiply, register_blocks, scalars, vectors
from warploom.codegen.cpu.kernels.row_i8 import power
from warploom.codegen.cpu.math import exp, tanh
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
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
from warploom.ir.function import Function
from warploom.ir.ops.alibi import slopes
from warploom.ir.ops.attention import attention
from warploom.ir.ops.scaled_cache import ATTENTIONS, parts_of
from warploom.ir.types import type_of

KIND = "attention"
PAGE = 16
BLOCK_PAGES = 4
BLOCK = BLOCK_PAGES * PAGE  # keys per step of the online softmax
MAX_ROWS = 12  # rows of a tile: enough to hide FMA latency and to reuse each key 12 times
MASKED = -1e30


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """attention [T, num_heads, head_dim] over pages of 16 keys; kv_dtype f32, bf16, f8e4m3
    or i8 (with exponents, see `row_i8.py`); window and softcap 0 are none.

    `sinks` is the dtype of one sink per head, or "" where there are none; `alibi` 0 is none; `scaled`: numbers of the
    cache stand on scales [2, num_kv_heads], of the keys and the values of each head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_dtype: str
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: str = ""
    alibi: float = 0.0
    scaled: bool = False

    dims = ("T", "S", "P")

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        shape = f"attention_{self.kv_dtype}_{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"
        scale = "" if self.scale == self.head_dim**-0.5 else f"_scale_{self.scale.hex()}"
        window = f"_window{self.window}" if self.window else ""
        softcap = f"_softcap_{self.softcap!r}" if self.softcap else ""
        sinks = f"_sinks_{self.sinks}" if self.sinks else ""
        alibi = f"_alibi_{self.alibi.hex()}" if self.alibi else ""
        scaled = "_scaled" if self.scaled else ""
        return (
            (shape + scale + window + softcap + sinks + alibi + scaled)
            .replace(".", "_")
            .replace("+", "")
            .replace("-", "m")
        )

    @property
    def block(self) -> int:
        """Numbers of a page of one head; an i8 cache has an exponent for each key or value at the end."""
        return PAGE * (self.head_dim + (1 if self.kv_dtype == "i8" else 0))

    @property
    def heads(self) -> int:
        """Query heads of a tile: those of one kv head, or an equal part of them."""
        group = self.num_heads // self.num_kv_heads
        return largest_divisor(group, MAX_ROWS)

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return MAX_ROWS // self.heads

    @property
    def tiles(self) -> str:
        """Blocks of tokens (inner, so that the keys of one kv head stay in cache), times groups of heads."""
        return f"((T + {self.tokens - 1}) // {self.tokens}) * {self.num_heads // self.heads}"

    @property
    def flops(self) -> str:
        """Upper bound: each token attends the full page table."""
        return f"T * P * {4 * PAGE * self.num_heads * self.head_dim}"

    @property
    def bytes(self) -> str:
        """Keys and values once per sequence, q and out once."""
        page = 2 * self.num_kv_heads * self.block * ELEMENT_BYTES[self.kv_dtype]
        return f"S * P * {page} + T * {8 * self.num_heads * self.head_dim}"

    @property
    def scratch_bytes(self) -> int:
        """See `Rows`."""
        return 4 * self.tokens * self.heads * (BLOCK + self.head_dim + LANES + 2)

    def emit(self, library: Library) -> None:
        """Operands: q, kv (at the layer), page_table, query_start, context_lens, sinks and scales (if any), out."""
        operands = {
            "q": "f32",
            "kv": self.kv_dtype,
            "page_table": "i32",
            "query_start": "i32",
            "context_lens": "i32",
            **({"sinks": self.sinks} if self.sinks else {}),
            **({"scales": "f32"} if self.scaled else {}),
            "out": "f32",
        }
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as tile:
            blocks = (k.dims["T"] + (self.tokens - 1)) // self.tokens
            falling = library.table(slopes(self.num_heads) * np.float32(self.alibi), "f32") if self.alibi else None
            emit_tile(Rows, self, k, tile % blocks * self.tokens, tile // blocks, falling)


def emit_tile(
    rows: type[Rows], spec: AttentionSpec, k: Kernel, first: Value, group: Value, falling: Ptr | None = None
) -> None:
    """All tokens of the tile at once when one sequence holds them all, else one by one."""
    starts, sequences = k.operands["query_start"], k.dims["S"]
    live = load_index(starts, sequences)
    stop = minimum(first + spec.tokens, k.dims["T"])
    sequence = find_sequence(starts, sequences, first)
    together = (first + spec.tokens <= live) & (first + spec.tokens <= load_index(starts, sequence + 1))
    with when(together):
        rows(spec, k, spec.tokens, first, group, sequence, falling).emit()
    with when(~together), loop(first, stop) as token:
        with when(token < live):
            rows(spec, k, 1, token, group, find_sequence(starts, sequences, token), falling).emit()
        with when(token >= live), loop(0, spec.heads * spec.head_dim, LANES) as i:
            row = (token * spec.num_heads + group * spec.heads) * spec.head_dim
            k.operands["out"].store(row + i, constant(0.0, "f32", LANES))


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


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `attention`, or why there is none."""
    operation = groups.only_op(group, *ATTENTIONS)
    if isinstance(operation, str):
        return operation
    (q, kv, page_table, query_start, context_lens), scales, sinks = parts_of(operation)
    attrs = attention.attrs_of(operation)
    tokens, num_heads, head_dim = type_of(q).shape
    refusal = groups.refuse_activations(q) or groups.refuse_cache(kv, head_dim, attrs["page_size"], attrs["k_layout"])
    if refusal is not None:
        return refusal
    heads = (groups.static(num_heads), groups.static(type_of(kv).shape[3]))
    shape = (*heads, groups.static(head_dim), type_of(kv).dtype.value)
    sink_dtype = type_of(sinks[0]).dtype.value if sinks else ""
    spec = AttentionSpec(
        *shape, attrs["scale"], attrs["window"], attrs["softcap"], sink_dtype, attrs["alibi"], bool(scales)
    )
    operands = (
        groups.input_slot(group, q),
        groups.kv_slot(group, kv, attrs["layer"]),
        *(groups.input_slot(group, value) for value in (page_table, query_start, context_lens, *sinks, *scales)),
        groups.result_slot(group, operation.results[0]),
    )
    sequences, width = type_of(page_table).shape
    return Match(spec, operands, {"T": str(tokens), "S": str(sequences), "P": str(width)})
