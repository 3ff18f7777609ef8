"""The attention kernel against its numpy meaning, and bit for bit against itself under other batchings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.attention import AttentionSpec
from warploom.codegen.cpu.kernels.attention_rows import PAGE
from warploom.ir.ops import int8_rows
from warploom.ir.ops.attention import attention
from warploom.ir.ops.scaled_cache import scaled_attention

DTYPES = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "i8": np.dtype(np.int8),
}


@dataclass
class Batch:
    """A step: sequences of `context` tokens in cache, the last `query` of each being this step's tokens."""

    q: np.ndarray
    kv: np.ndarray
    page_table: np.ndarray
    query_start: np.ndarray
    context_lens: np.ndarray
    sinks: tuple[np.ndarray, ...] = ()
    scales: tuple[np.ndarray, ...] = ()

    def run(self, spec: AttentionSpec, isa: Isa, threads: int = 1) -> np.ndarray:
        out = np.full_like(self.q, np.nan)
        dims = {"T": len(self.q), "S": len(self.context_lens), "P": self.page_table.shape[1]}
        arrays = [self.q, self.kv, self.page_table, self.query_start, self.context_lens]
        arrays += [*self.sinks, *self.scales, out]
        compiled(spec, isa)(arrays, dims, threads)
        return out

    def meaning(self, spec: AttentionSpec) -> np.ndarray:
        kv = self.kv.reshape(1, *self.kv.shape)
        kv = kv if kv.dtype == np.int8 else kv.astype(np.float64)
        attrs: dict[str, Any] = {
            "layer": 0,
            "page_size": PAGE,
            "k_layout": "dim_major",
            "scale": spec.scale,
            "window": spec.window,
            "softcap": spec.softcap,
            "alibi": spec.alibi,
        }
        rest = (self.page_table, self.query_start, self.context_lens, *self.sinks)
        meaning = scaled_attention if self.scales else attention
        return meaning.evaluate(self.q.astype(np.float64), kv, *self.scales, *rest, **attrs)


def make_batch(spec: AttentionSpec, sequences: list[tuple[int, int]], padding: int = 0, seed: int = 0) -> Batch:
    """Random data; `sequences` are (query, context) lengths; unused cache memory is NaN."""
    rng = np.random.default_rng(seed)
    pages = [-(-context // PAGE) for _, context in sequences]
    count, width = sum(pages) + 2, max(pages) + int(rng.integers(2))
    kv = np.full((count, 2, spec.num_kv_heads, PAGE * spec.head_dim), np.nan, np.float32)
    order, table = iter(rng.permutation(count - 1) + 1), np.zeros((len(sequences), width), np.int32)
    kv[0] = rng.standard_normal(kv.shape[1:])  # page 0: what unused entries of the table point to
    for row, (used, (_, context)) in enumerate(zip(pages, sequences, strict=True)):
        for slot in range(used):
            page = table[row, slot] = next(order)
            filled = min(PAGE, context - slot * PAGE)
            blocks = kv[page].reshape(2, spec.num_kv_heads, -1)
            shape = (spec.num_kv_heads, PAGE, spec.head_dim)
            blocks[0].reshape(shape[0], shape[2], PAGE)[..., :filled] = rng.standard_normal((*shape[::2], filled))
            blocks[1].reshape(shape)[:, :filled] = rng.standard_normal((shape[0], filled, shape[2]))
    starts = np.cumsum([0, *(query for query, _ in sequences)]).astype(np.int32)
    q = rng.standard_normal((starts[-1] + padding, spec.num_heads, spec.head_dim)).astype(np.float32)
    contexts = np.array([context for _, context in sequences], np.int32)
    sinks = (rng.standard_normal(spec.num_heads).astype(np.float32) * 3,) if spec.sinks else ()
    kv = in_int8(kv, spec) if spec.kv_dtype == "i8" else kv.astype(DTYPES[spec.kv_dtype])
    scales = (rng.uniform(0.3, 2, (2, spec.num_kv_heads)).astype(np.float32),) if spec.scaled else ()
    return Batch(q, kv, table, starts, contexts, sinks, scales)


def in_int8(kv: np.ndarray, spec: AttentionSpec) -> np.ndarray:
    """A cache of rows on powers of two; unused rows have an exponent that stands for no number."""
    parts = []
    for which, transposed in ((0, True), (1, False)):
        shape = (*kv.shape[:1], spec.num_kv_heads, spec.head_dim, PAGE)
        rows = kv[:, which].reshape(shape).swapaxes(2, 3) if transposed else kv[:, which].reshape(*shape[:2], PAGE, -1)
        numbers, exponents = int8_rows.rounded(np.nan_to_num(rows))
        exponents[np.isnan(rows).all(-1)] = -128
        numbers = numbers.swapaxes(2, 3) if transposed else numbers
        parts.append(np.concatenate((numbers.reshape(*shape[:2], -1), exponents), -1))
    return np.stack(parts, 1)


def spec_of(heads: int, kv_heads: int, size: int, dtype: str = "f32", **rest: Any) -> AttentionSpec:
    return AttentionSpec(heads, kv_heads, size, dtype, size**-0.5, **rest)


SPECS = [
    spec_of(9, 3, 64),
    spec_of(9, 3, 64, "bf16"),
    spec_of(2, 2, 16),
    spec_of(8, 2, 80, window=100),
    spec_of(8, 1, 128, "bf16", window=17),
    spec_of(6, 2, 64, "f8e4m3"),
    spec_of(6, 2, 64, "f8e4m3", scaled=True),
    spec_of(6, 3, 32, "f8e4m3", scaled=True, softcap=1.5, sinks="f32"),
    spec_of(6, 2, 64, "i8"),
    spec_of(8, 1, 80, "i8", window=17),
    spec_of(2, 1, 256),
    spec_of(7, 1, 96),
    spec_of(16, 1, 16, window=1),
    spec_of(6, 2, 32, softcap=1.5),
    spec_of(6, 3, 16, window=40, sinks="f32"),
    spec_of(5, 1, 48, "bf16", softcap=20.0, sinks="f32"),
    spec_of(6, 2, 32, alibi=0.3),
    spec_of(4, 4, 16, "bf16", window=40, alibi=1.0),
]
BATCHES = [
    [(1, 1)],
    [(1, 512)],
    [(40, 40)],
    [(17, 600), (1, 33), (0, 5), (5, 16), (1, 64), (1, 65), (2, 129), (12, 12)],
    [(1, 16), (1, 17), (1, 15), (1, 100)],
    [(13, 77), (24, 128)],
]


@on_every_isa
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_attention_is_its_meaning(spec: AttentionSpec, isa: Isa) -> None:
    for seed, sequences in enumerate(BATCHES):
        batch = make_batch(spec, sequences, padding=seed % 4, seed=seed)
        out, live = batch.run(spec, isa, threads=1 + seed % 2), batch.query_start[-1]
        np.testing.assert_allclose(out, batch.meaning(spec), rtol=1e-5, atol=3e-6)
        assert not out[live:].any()


def in_chunks(batch: Batch, sequence: int, chunks: list[int]) -> list[Batch]:
    """One sequence of a batch alone, its query tokens split into steps of the given sizes."""
    begin, end = batch.query_start[sequence : sequence + 2]
    context = batch.context_lens[sequence] - (end - begin)
    steps, table = [], batch.page_table[sequence : sequence + 1]
    for size in chunks:
        context, q = context + size, batch.q[begin : begin + size]
        starts, contexts = np.array([0, size], np.int32), np.array([context], np.int32)
        steps.append(Batch(q, batch.kv, table, starts, contexts, batch.sinks, batch.scales))
        begin += size
    assert begin == end
    return steps


@on_every_isa
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_row_never_depends_on_its_batch(spec: AttentionSpec, isa: Isa) -> None:
    """Bit for bit: all sequences in one step, on two threads; each alone; alone in chunks; alone token by token."""
    batch = make_batch(spec, [(1, 200), (37, 300), (1, 16), (12, 12), (3, 65)], padding=2, seed=9)
    together = batch.run(spec, isa, threads=2)
    for sequence, (begin, end) in enumerate(zip(batch.query_start, batch.query_start[1:], strict=False)):
        tokens = int(end - begin)
        for chunks in ([tokens], [tokens // 2, tokens - tokens // 2], [1] * tokens):
            parts = [part.run(spec, isa) for part in in_chunks(batch, sequence, chunks)]
            np.testing.assert_array_equal(np.concatenate(parts), together[begin:end])
