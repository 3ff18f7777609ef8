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

from dataclasses import dataclass

import numpy as np

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.attention_rows import BLOCK, PAGE, Rows
from warploom.codegen.cpu.kernels.ragged import find_sequence, load_index
from warploom.codegen.cpu.kernels.refusals import refuse_activations, refuse_cache
from warploom.codegen.cpu.kernels.register_product import largest_divisor
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    constant,
    minimum,
)
from warploom.codegen.groups import input_slot, kv_slot, only_op, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.function import Function
from warploom.ir.ops.alibi import slopes
from warploom.ir.ops.attention import attention
from warploom.ir.ops.scaled_cache import ATTENTIONS, parts_of
from warploom.ir.types import type_of

KIND = "attention"
MAX_ROWS = 12  # rows of a tile: enough to hide FMA latency and to reuse each key 12 times


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
        return identifier(f"{shape}{scale}{window}{softcap}{sinks}{alibi}{scaled}")

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


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `attention`, or why there is none."""
    operation = only_op(group, *ATTENTIONS)
    if isinstance(operation, str):
        return operation
    (q, kv, page_table, query_start, context_lens), scales, sinks = parts_of(operation)
    attrs = attention.attrs_of(operation)
    tokens, num_heads, head_dim = type_of(q).shape
    refusal = refuse_activations(q) or refuse_cache(kv, head_dim, attrs["page_size"], attrs["k_layout"])
    if refusal is not None:
        return refusal
    heads = (static(num_heads), static(type_of(kv).shape[3]))
    shape = (*heads, static(head_dim), type_of(kv).dtype.value)
    sink_dtype = type_of(sinks[0]).dtype.value if sinks else ""
    spec = AttentionSpec(
        *shape, attrs["scale"], attrs["window"], attrs["softcap"], sink_dtype, attrs["alibi"], bool(scales)
    )
    operands = (
        input_slot(group, q),
        kv_slot(group, kv, attrs["layer"]),
        *(input_slot(group, value) for value in (page_table, query_start, context_lens, *sinks, *scales)),
        result_slot(group, operation.results[0]),
    )
    sequences, width = type_of(page_table).shape
    return Match(spec, operands, {"T": str(tokens), "S": str(sequences), "P": str(width)})
