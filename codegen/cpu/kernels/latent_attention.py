"""Attention over latent rows that all heads share: `attention` with another product of queries and keys.

Rows lie token by token, as the values need them. So a score is a product along the row, its lanes summed at the end:
a tree of additions that no other row of the batch changes. Rows of 8-bit caches are widened a block of keys at a time,
for all queries of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.attention import AttentionSpec, emit_tile
from warploom.codegen.cpu.kernels.attention_rows import BLOCK, BLOCK_PAGES, PAGE, Rows
from warploom.codegen.cpu.kernels.latent_rows import RowFormat
from warploom.codegen.cpu.kernels.ragged import load_index
from warploom.codegen.cpu.kernels.refusals import refuse_activations, refuse_rows
from warploom.codegen.cpu.kernels.register_product import largest_divisor, multiply, vectors
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import LANES, Value, constant, minimum, reduce_add
from warploom.codegen.groups import input_slot, kv_slot, only_op, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.function import Function
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.types import type_of

KIND = "latent_attention"
KEYS = 4  # of a register block


@dataclass(frozen=True, slots=True)
class LatentAttentionSpec(AttentionSpec):
    """As its base, with one kv head; head_dim is that of the latent, and `rope_dim` more numbers follow in a row."""

    rope_dim: int = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        shape = f"latent_attention_{self.kv_dtype}_{self.num_heads}x{self.head_dim}r{self.rope_dim}"
        return identifier(f"{shape}_scale_{self.scale.hex()}")

    @property
    def row(self) -> int:
        """Numbers of a token in the cache."""
        return self.head_dim + self.rope_dim

    @property
    def rows(self) -> RowFormat:
        """How a row lies in the cache."""
        return RowFormat(self.head_dim, self.rope_dim, self.kv_dtype)

    @property
    def scratch_bytes(self) -> int:
        """As `Rows`, then widened rows of a block of keys."""
        widened = 4 * BLOCK * self.row if self.rows.runs else 0
        return super(LatentAttentionSpec, self).scratch_bytes + widened

    @property
    def flops(self) -> str:
        """Upper bound: each token attends the full page table."""
        return f"T * P * {2 * PAGE * self.num_heads * (self.row + self.head_dim)}"

    @property
    def bytes(self) -> str:
        """Rows once per sequence, q and out once."""
        page = self.rows.page * ELEMENT_BYTES[self.kv_dtype]
        return f"S * P * {page} + T * {4 * self.num_heads * (self.row + self.head_dim)}"

    def emit(self, library: Library) -> None:
        """Operands: q_latent, q_rope, kv (at the layer), page_table, query_start, context_lens, out."""
        indices = dict.fromkeys(("page_table", "query_start", "context_lens"), "i32")
        operands = {"q": "f32", "q_rope": "f32", "kv": self.kv_dtype, **indices, "out": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as tile:
            blocks = (k.dims["T"] + (self.tokens - 1)) // self.tokens
            emit_tile(LatentRows, self, k, tile % blocks * self.tokens, tile // blocks)


@dataclass(frozen=True, slots=True)
class LatentRows(Rows):
    """`Rows` whose keys are their values, with more numbers behind."""

    spec: LatentAttentionSpec

    @property
    def values_at(self) -> tuple[int, int]:
        """The values are the first numbers of the keys."""
        return 0, self.spec.row

    def find_pages(self, block: Value, stop: Value) -> list[Ptr]:
        """The pages of a block of keys; past the last page, that page again (masked later)."""
        table = self.k.operands["page_table"].at(self.sequence * self.k.dims["P"])
        last = (stop - 1) >> 4
        indices = [load_index(table, minimum((block >> 4) + i, last)) for i in range(BLOCK_PAGES)]
        pages = [self.k.operands["kv"].at(index * self.spec.rows.page) for index in indices]
        if not self.spec.rows.runs:
            return pages
        widened = [self.widened.at(i * PAGE * self.spec.row) for i in range(BLOCK_PAGES)]
        for i, (page, rows) in enumerate(zip(pages, widened, strict=True)):
            with when((block >> 4) + i <= last):
                self.spec.rows.widen(page, rows)
        return widened

    @property
    def widened(self) -> Ptr:
        """Rows of a block of keys, f32, behind the scratch of a whole tile."""
        spec = self.spec
        return self.k.scratch.cast("f32").at(spec.scratch_bytes // 4 - BLOCK * spec.row)

    def score(self, pages: Sequence[Ptr]) -> None:
        """scores[row, key] = q_latent[row] . latent[key] + q_rope[row] . rope_key[key]."""
        height = largest_divisor(self.count, max(1, self.k.isa.accumulators // KEYS))
        for number, page in enumerate(pages):
            for first in range(0, self.count, height):
                with loop(0, PAGE, KEYS) as key:
                    self._score_block(range(first, first + height), page.at(key * self.spec.row), number, key)

    def scale_weights(self, pages: Sequence[Ptr]) -> None:
        """Nothing: values are what they stand for."""

    def _score_block(self, rows: range, keys: Ptr, page: int, first: Value) -> None:
        spec = self.spec
        totals = [constant(0.0, "f32", LANES) for _ in rows for _ in range(KEYS)]
        for name, start, size in (("q", 0, spec.head_dim), ("q_rope", spec.head_dim, spec.rope_dim)):
            totals = multiply(
                totals,
                (0, size // LANES),
                [vectors(self._query(name, size, row), LANES) for row in rows],
                [vectors(keys.at(i * spec.row + start), LANES) for i in range(KEYS)],
            )
        for total, (row, i) in zip(totals, product(rows, range(KEYS)), strict=True):
            self.scores[first + (row * PAGE * BLOCK_PAGES + page * PAGE + i)] = reduce_add(total)

    def _query(self, name: str, size: int, row: int) -> Ptr:
        token, head = divmod(row, self.spec.heads)
        at = (self.first + token) * self.spec.num_heads + self.group * self.spec.heads + head
        return self.k.operands[name].at(at * size)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `latent_attention`, or why there is none."""
    operation = only_op(group, latent_attention)
    if isinstance(operation, str):
        return operation
    q_latent, q_rope, kv, *batch = operation.operands
    attrs = latent_attention.attrs_of(operation)
    tokens, num_heads, latent = type_of(q_latent).shape
    rotated = static(type_of(q_rope).shape[2])
    refusal = refuse_activations(q_latent, q_rope) or refuse_rows(latent, rotated, attrs["page_size"])
    if refusal is not None:
        return refusal
    shape = (static(num_heads), 1, static(latent), type_of(kv).dtype.value)
    spec = LatentAttentionSpec(*shape, attrs["scale"], rope_dim=rotated)
    operands = (
        input_slot(group, q_latent),
        input_slot(group, q_rope),
        kv_slot(group, kv, attrs["layer"]),
        *(input_slot(group, value) for value in batch),
        result_slot(group, operation.results[0]),
    )
    sequences, width = type_of(batch[0]).shape
    return Match(spec, operands, {"T": str(tokens), "S": str(sequences), "P": str(width)})
