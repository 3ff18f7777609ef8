"""Kernels of latent attention against their numpy meaning, and bit for bit against themselves under other batchings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from tests.unit.codegen.latent_caches import latent_cache
from warploom.codegen.columns import Range
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.attention_rows import PAGE
from warploom.codegen.cpu.kernels.head_linear import HeadLinearSpec
from warploom.codegen.cpu.kernels.latent_attention import LatentAttentionSpec
from warploom.codegen.cpu.kernels.latent_write import LatentWriteSpec
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.types import DType

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
CACHES = (DType.F32, DType.BF16, DType.F8, DType.I8)


@dataclass(frozen=True)
class Batch:
    """A step: sequences of `context` rows in cache, the last `query` of each being this step's tokens."""

    q_latent: np.ndarray
    q_rope: np.ndarray
    kv: np.ndarray
    page_table: np.ndarray
    query_start: np.ndarray
    context_lens: np.ndarray

    def run(self, spec: LatentAttentionSpec, isa: Isa, threads: int = 1) -> np.ndarray:
        out = np.full_like(self.q_latent, np.nan)
        dims = {"T": len(out), "S": len(self.context_lens), "P": self.page_table.shape[1]}
        batch = (self.page_table, self.query_start, self.context_lens)
        compiled(spec, isa)([self.q_latent, self.q_rope, self.kv, *batch, out], dims, threads)
        return out

    def meaning(self, spec: LatentAttentionSpec) -> np.ndarray:
        queries = (self.q_latent.astype(np.float64), self.q_rope.astype(np.float64))
        batch = (self.page_table, self.query_start, self.context_lens)
        return latent_attention.evaluate(*queries, self.kv[None], *batch, layer=0, page_size=PAGE, scale=spec.scale)


def make_batch(spec: LatentAttentionSpec, sequences: list[tuple[int, int]], padding: int = 0, seed: int = 0) -> Batch:
    """Random data; `sequences` are (query, context) lengths; unused cache memory is NaN."""
    rng = np.random.default_rng(seed)
    pages = [-(-context // PAGE) for _, context in sequences]
    count, table = sum(pages) + 2, np.zeros((len(sequences), max(pages) + int(rng.integers(2))), np.int32)
    kv = np.full((count, PAGE, spec.row), np.nan, np.float32)
    kv[0], order = rng.standard_normal(kv.shape[1:]), iter(rng.permutation(count - 1) + 1)
    for row, (used, (_, context)) in enumerate(zip(pages, sequences, strict=True)):
        for place in range(used):
            page = table[row, place] = next(order)
            filled = min(PAGE, context - place * PAGE)
            kv[page, :filled] = rng.standard_normal((filled, spec.row))
    starts = np.cumsum([0, *(query for query, _ in sequences)]).astype(np.int32)
    tokens, sizes = starts[-1] + padding, (spec.head_dim, spec.rope_dim)
    q_latent, q_rope = (rng.standard_normal((tokens, spec.num_heads, n)).astype(np.float32) for n in sizes)
    contexts = np.array([context for _, context in sequences], np.int32)
    cache = latent_cache(kv, spec.head_dim, DType(spec.kv_dtype))
    return Batch(q_latent, q_rope, cache, table, starts, contexts)


def spec_of(heads: int, latent: int, rotated: int, dtype: str) -> LatentAttentionSpec:
    return LatentAttentionSpec(heads, 1, latent, dtype, (latent + rotated) ** -0.5, rope_dim=rotated)


SPECS = [
    spec_of(16, 512, 64, "bf16"),
    spec_of(5, 48, 16, "f32"),
    spec_of(1, 16, 32, "f32"),
    spec_of(13, 32, 16, "bf16"),
    spec_of(16, 512, 64, "i8"),
    spec_of(5, 256, 32, "f8e4m3"),
    spec_of(3, 48, 16, "f8e4m3"),
    spec_of(1, 16, 32, "i8"),
]
BATCHES = [
    [(1, 1)],
    [(40, 40)],
    [(17, 300), (1, 33), (0, 5), (5, 16), (1, 64), (1, 65), (2, 129), (12, 12)],
    [(1, 16), (1, 17), (1, 15), (1, 100)],
]


@on_every_isa
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_latent_attention_is_its_meaning(spec: LatentAttentionSpec, isa: Isa) -> None:
    for seed, sequences in enumerate(BATCHES):
        batch = make_batch(spec, sequences, padding=seed % 3, seed=seed)
        out, live = batch.run(spec, isa, threads=1 + seed % 2), batch.query_start[-1]
        np.testing.assert_allclose(out, batch.meaning(spec), rtol=1e-5, atol=3e-6)
        assert not out[live:].any()


@on_every_isa
@pytest.mark.parametrize("spec", SPECS[1:], ids=lambda spec: spec.name)
def test_a_row_never_depends_on_its_batch(spec: LatentAttentionSpec, isa: Isa) -> None:
    """Bit for bit: all sequences in one step; each token of them alone."""
    batch = make_batch(spec, [(1, 200), (25, 90), (1, 16), (12, 12)], padding=2, seed=9)
    together = batch.run(spec, isa, threads=2)
    for sequence, (begin, end) in enumerate(zip(batch.query_start, batch.query_start[1:], strict=False)):
        for token in range(begin, end):
            alone = replace(
                batch,
                q_latent=batch.q_latent[token : token + 1],
                q_rope=batch.q_rope[token : token + 1],
                page_table=batch.page_table[sequence : sequence + 1],
                query_start=np.array([0, 1], np.int32),
                context_lens=batch.context_lens[sequence : sequence + 1] - np.int32(end - 1 - token),
            )
            np.testing.assert_array_equal(alone.run(spec, isa)[0], together[token])


@on_every_isa
@pytest.mark.parametrize("latent", [48, 256])
@pytest.mark.parametrize("dtype", CACHES, ids=str)
def test_latent_write_is_its_meaning(dtype: DType, latent: int, isa: Isa) -> None:
    """To the bit, of rows of any size: the powers of 8-bit rows end somewhere, and zeros have the lowest."""
    spec, rng = LatentWriteSpec(latent, 16, dtype.value), np.random.default_rng(0)
    sizes = np.array([1, 1, 1e-6, 1e7, 0, 30, 1e-3], np.float32)[:, None]
    slots = np.array([70, -1, 0, 17, 16, 2, 34], np.int32)
    rows, rope_key = (rng.standard_normal((len(slots), n)).astype(np.float32) * sizes for n in (latent, 16))
    old = rng.standard_normal((5, PAGE, latent + 16)).astype(np.float32)
    kv = latent_cache(old, latent, dtype)
    expected = latent_write.evaluate(kv[None], rows, rope_key, slots, layer=0, page_size=PAGE)[0]
    compiled(spec, isa)([rows, rope_key, slots, kv], {"T": len(slots)}, threads=2)
    np.testing.assert_array_equal(kv.view(np.int8), expected.view(np.int8))


@on_every_isa
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(("n", "k"), [(1, 5), (37, 48), (64, 100), (48, 24)])
def test_head_linear_is_its_meaning(n: int, k: int, dtype: str, isa: Isa) -> None:
    heads, tokens, rng = 3, 7, np.random.default_rng(n)
    weight = rng.standard_normal((heads * n, k)).astype(DTYPES[dtype])
    matrix = rng.standard_normal((tokens, heads * k + 5)).astype(np.float32)
    kernel = compiled(HeadLinearSpec(heads, n, k, dtype, Range(2, heads * k + 5)), isa)
    y = np.full((tokens, heads, n), np.nan, np.float32)
    kernel([matrix, weight, y], {"T": tokens}, threads=2)
    x = matrix[:, 2:-3].reshape(tokens, heads, k).astype(np.float64)
    np.testing.assert_allclose(y, head_linear.evaluate(x, weight, n=n), rtol=0, atol=1e-6 * k)
    alone = np.full((1, heads, n), np.nan, np.float32)
    kernel([matrix[5:6].copy(), weight, alone], {"T": 1}, threads=2)
    np.testing.assert_array_equal(alone, y[5:6])


@on_every_isa
@pytest.mark.parametrize(("n", "k"), [(1, 5), (37, 48), (64, 100)])
def test_head_linear_of_int8_is_its_meaning(n: int, k: int, isa: Isa) -> None:
    heads, tokens, rng = 3, 7, np.random.default_rng(n)
    weight = rng.integers(-127, 128, (heads * n, k)).astype(np.int8)
    scale = rng.uniform(0.005, 0.01, (heads * n, 1)).astype(np.float32)
    x = rng.standard_normal((tokens, heads, k)).astype(np.float32)
    kernel = compiled(HeadLinearSpec(heads, n, k, "i8", Range(0, heads * k)), isa)
    y = np.full((tokens, heads, n), np.nan, np.float32)
    kernel([x, weight, scale, y], {"T": tokens}, threads=2)
    expected = head_linear.evaluate(x.astype(np.float64), weight, scale, n=n)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * k)
