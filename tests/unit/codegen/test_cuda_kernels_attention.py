"""Paged attention on CUDA: its sources in Triton's interpreter against the numpy meaning, and which groups it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Slot
from warploom.codegen.cuda.kernels.attention import lower
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec, DecodeTile
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.codegen.cuda.kernels.ragged_attention import AttentionTile, RaggedAttentionSpec
from warploom.codegen.cuda.scope import Scope
from warploom.ir.ops import int8_rows
from warploom.ir.ops.attention import attention
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.paged_cache import view_exponents, view_pages
from warploom.ir.ops.rope import rope
from warploom.ir.ops.scaled_cache import scaled_attention, scaled_kv_write
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate

BF16 = np.dtype(ml_dtypes.bfloat16)
PAGE = 64
SINKS = np.linspace(-2, 3, 8, dtype=np.float32)
PAGING: dict[str, Any] = {"layer": 0, "page_size": PAGE, "k_layout": "token_major"}


@dataclass
class Batch:
    """A step: sequences of `context` tokens in cache, the last `query` of each being this step's tokens."""

    q: np.ndarray
    kv: np.ndarray
    page_table: np.ndarray
    query_start: np.ndarray
    context_lens: np.ndarray

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.q, self.kv, self.page_table, self.query_start, self.context_lens]

    @property
    def dims(self) -> dict[str, int]:
        return {"T": len(self.q), "S": len(self.context_lens), "P": self.page_table.shape[1]}

    def meaning(self, problem: AttentionProblem, sinks: np.ndarray | None = None) -> np.ndarray:
        attrs = {name: getattr(problem, name) for name in ("scale", "window", "softcap", "alibi")} | PAGING
        q = self.q.astype(np.float64)
        kv = self.kv[None] if self.kv.dtype == np.int8 else self.kv[None].astype(np.float64)
        pages = (self.page_table, self.query_start, self.context_lens)
        if problem.scaled:
            return scaled_attention.evaluate(q, kv, scales_of(problem), *pages, sinks, **attrs)
        return attention.evaluate(q, kv, *pages, sinks, **attrs)


@dataclass
class Projected:
    """A step before its rotation and cache write; what it attends; the cache that it leaves."""

    matrix: np.ndarray  # q, k and v side by side: [T, (num_heads + 2 * num_kv_heads) * head_dim]
    cos: np.ndarray
    sin: np.ndarray
    slots: np.ndarray
    kv: np.ndarray
    attended: Batch


def make_batch(problem: AttentionProblem, sequences: list[tuple[int, int]], padding: int = 0) -> Batch:
    """Random data; `sequences` are (query, context) lengths; unused cache memory is NaN, or large numbers."""
    rng = np.random.default_rng(1)
    pages = [-(-context // PAGE) for _, context in sequences]
    count = sum(pages) + 1
    shape = (count, 2, problem.num_kv_heads, PAGE, problem.head_dim)
    kv = rng.standard_normal(shape).astype(np.float32)
    order, table = iter(rng.permutation(count)), np.zeros((len(sequences), max(pages) + 1), np.int32)
    for row, (used, (_, context)) in enumerate(zip(pages, sequences, strict=True)):
        table[row, :used] = [next(order) for _ in range(used)]
        if context % PAGE:
            kv[table[row, used - 1], :, :, context % PAGE :] = np.nan
    starts = np.cumsum([0, *(query for query, _ in sequences)]).astype(np.int32)
    q = rng.standard_normal((starts[-1] + padding, problem.num_heads, problem.head_dim))
    contexts = np.array([context for _, context in sequences], np.int32)
    return Batch(q.astype(BF16), stored(kv, problem.kv), table, starts, contexts)


def scales_of(problem: AttentionProblem) -> np.ndarray:
    """Of keys and values, no powers of two."""
    return np.linspace(0.3, 1.7, 2 * problem.num_kv_heads, dtype=np.float32).reshape(2, -1)


def side_inputs(problem: AttentionProblem) -> list[np.ndarray]:
    """Operands that not all problems have."""
    scales = [scales_of(problem)] if problem.scaled else []
    return [*([SINKS[: problem.num_heads]] if problem.sinks else []), *scales]


def stored(kv: np.ndarray, dtype: DType) -> np.ndarray:
    """[pages, 2, heads, PAGE, D] as a cache of a dtype has them."""
    blocks = *kv.shape[:3], -1
    if dtype is not DType.I8:
        return kv.reshape(blocks).astype(dtype.numpy)
    numbers, exponents = int8_rows.rounded(np.nan_to_num(kv, nan=1e30))
    return np.concatenate([numbers.reshape(blocks), exponents], -1)


def problem_of(
    heads: int, kv_heads: int, size: int, window: int = 0, alibi: float = 0.0, kv: DType = DType.BF16
) -> AttentionProblem:
    return AttentionProblem(heads, kv_heads, size, size**-0.5, window, alibi=alibi, kv=kv)


def make_projected(problem: AttentionProblem, sequences: list[tuple[int, int]], padding: int = 0) -> Projected:
    """Random data; what this step writes is NaN in the cache, or large numbers."""
    assert problem.projection is not None
    batch, rng = make_batch(problem, sequences, padding), np.random.default_rng(2)
    tokens, heads, size = batch.q.shape
    matrix = rng.standard_normal((tokens, heads + 2 * problem.num_kv_heads, size)).astype(BF16)
    matrix[batch.query_start[-1] :] = np.nan
    angle = rng.uniform(0, 6, (tokens, problem.projection.half))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    slots = np.full(tokens, -1, np.int32)
    for s, (query, context) in enumerate(sequences):
        position, first = np.arange(context - query, context), batch.query_start[s]
        slots[first : first + query] = batch.page_table[s, position // PAGE] * PAGE + position % PAGE
    turned = rope.evaluate(matrix[:, : heads + problem.num_kv_heads].astype(np.float32), cos, sin).astype(BF16)
    kv = batch.kv.copy()
    pages = view_pages(kv[None], 0, size, "token_major")
    for cache in pages:
        cache[slots[slots >= 0] // PAGE, :, slots[slots >= 0] % PAGE] = 127 if kv.dtype == np.int8 else np.nan
    if kv.dtype == np.int8:
        for exponents in view_exponents(kv[None], 0, size):
            exponents[slots[slots >= 0] // PAGE, :, slots[slots >= 0] % PAGE] = 100
    values = matrix[:, heads + problem.num_kv_heads :]
    written = (kv[None], turned[:, heads:], values, slots)
    if problem.scaled:
        full = scaled_kv_write.evaluate(*written, scales_of(problem), **PAGING)[0]
    else:
        full = kv_write.evaluate(*written, **PAGING)[0]
    attended = replace(batch, q=turned[:, :heads], kv=full)
    return Projected(matrix.reshape(tokens, -1), cos, sin, slots, kv, attended)


def projected_problem(heads: int, kv_heads: int, size: int, half: int, **more: Any) -> AttentionProblem:
    width = (heads + 2 * kv_heads) * size
    q, k, v = (Range(start * size, width) for start in (0, heads, heads + kv_heads))
    projection = Projection(q, k, v, half)
    return AttentionProblem(heads, kv_heads, size, size**-0.5, projection=projection, **more)


def temps_of(spec: DecodeAttentionSpec, dims: dict[str, int]) -> list[np.ndarray]:
    """Counters that are zero, and garbage."""
    return [np.full(t.type.resolve(dims), 0 if t.zeroed else np.nan, t.type.dtype.numpy) for t in spec.temps]


def run_decode(problem: AttentionProblem, batch: Batch, tile: DecodeTile) -> np.ndarray:
    spec = DecodeAttentionSpec(problem, tile, pdl=False)
    out = np.full(batch.q.shape, np.nan, BF16)
    temps = temps_of(spec, batch.dims)
    run_kernel(spec, [*batch.arrays, *side_inputs(problem), *temps, out], batch.dims)
    assert not temps[-1].any(), "counters are left zero"
    return out


def run_ragged(problem: AttentionProblem, batch: Batch, tile: AttentionTile) -> np.ndarray:
    out = np.full(batch.q.shape, np.nan, BF16)
    spec = RaggedAttentionSpec(problem, tile, pdl=False)
    run_kernel(spec, [*batch.arrays, *side_inputs(problem), out], batch.dims)
    return out


def close(out: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=1.6e-2, atol=1e-2)


@pytest.mark.parametrize("tile", [DecodeTile(), DecodeTile(min_keys=64)], ids=str)
@pytest.mark.parametrize(
    ("problem", "contexts", "padding"),
    [
        (problem_of(8, 2, 64), [1, 64, 65, 300], 0),
        (problem_of(3, 1, 80), [700, 1], 2),
        (problem_of(4, 4, 96, window=100), [400, 90, 128], 0),
        (problem_of(16, 1, 256), [2000], 0),
        (problem_of(6, 3, 64, alibi=0.125), [300, 17], 0),
        (problem_of(6, 2, 128, kv=DType.I8), [1, 64, 65, 300], 2),
        (problem_of(4, 4, 96, window=100, alibi=0.125, kv=DType.I8), [400, 90, 128], 0),
    ],
    ids=str,
)
def test_decode_is_its_meaning(problem: AttentionProblem, contexts: list[int], padding: int, tile: DecodeTile) -> None:
    batch = make_batch(problem, [(1, context) for context in contexts] + [(0, 0)] * padding, padding)
    batch.q[len(contexts) :] = np.nan
    close(run_decode(problem, batch, tile), batch.meaning(problem))


@pytest.mark.parametrize(
    ("kv", "fused", "kinds"),
    [(DType.BF16, False, "ddddr"), (DType.I8, False, "fdddr"), (DType.BF16, True, "eeedr"), (DType.I8, True, "edddr")],
)
def test_kernels_are_chosen_by_tokens_and_sequences(kv: DType, fused: bool, kinds: str) -> None:
    """e, f, d: decode, with keys that are loaded early or without a cap on registers; r: a prompt is among them."""
    problem = projected_problem(32, 8, 128, 64, kv=kv) if fused else AttentionProblem(32, 8, 128, 128**-0.5, kv=kv)
    names = ("q", "k", "v", "cos", "sin", "slots", "kv", "page_table", "query_start", "context_lens", "out")
    scope = Scope({name: Slot("input", 0) for name in names}, {n: n for n in "TSPC"})
    found = lower(problem, scope, CudaTarget("sm_90"))
    for (tokens, sequences), kind in zip(((1, 1), (1, 2), (2, 2), (64, 1024), (8192, 1)), kinds, strict=True):
        dims = {"T": tokens, "S": sequences, "P": 4, "C": 99}
        (taken,) = (v for v in found.variants if v.when and v.when.min <= evaluate(v.when.value, dims) <= v.when.max)
        spec = taken.steps[-1].spec
        assert isinstance(spec, DecodeAttentionSpec) == (kind in "def")
        if isinstance(spec, DecodeAttentionSpec):
            assert spec.early == (256 if kind == "e" else 0)
            assert spec.options.maxnreg == (128 if kv is DType.I8 and kind == "d" else None)


def test_decode_kernel_finds_tokens_of_prompts_and_of_later_sequences() -> None:
    problem = problem_of(2, 1, 64)
    batch = make_batch(problem, [(0, 0), (2, 70), (0, 0), (1, 5)], padding=1)
    close(run_decode(problem, batch, DecodeTile()), batch.meaning(problem))


@pytest.mark.parametrize(
    ("problem", "sequences", "padding"),
    [
        (problem_of(8, 2, 64), [(17, 17), (1, 130), (0, 0), (20, 90)], 3),
        (problem_of(3, 1, 80), [(40, 200)], 0),
        (problem_of(4, 4, 96, window=50), [(70, 70), (1, 128), (64, 192)], 70),
        (problem_of(14, 2, 128), [(1, 1), (9, 64), (2, 65)], 0),
        (problem_of(16, 1, 16), [(0, 0), (33, 100)], 0),
        (problem_of(6, 3, 64, alibi=0.125), [(33, 130)], 0),
        # Rows that see nothing of their block's first keys: scores there must not become weights by rounding.
        (problem_of(2, 1, 64, window=77), [(64, 205), (1, 129), (33, 33)], 0),
        (problem_of(4, 2, 128, window=40), [(50, 260)], 5),
        (problem_of(3, 1, 80, kv=DType.I8), [(17, 17), (1, 130), (0, 0), (64, 192)], 3),
        (problem_of(4, 2, 64, window=40, alibi=0.125, kv=DType.I8), [(50, 260)], 0),
    ],
    ids=str,
)
def test_ragged_is_its_meaning(problem: AttentionProblem, sequences: list[tuple[int, int]], padding: int) -> None:
    batch = make_batch(problem, sequences, padding)
    close(run_ragged(problem, batch, AttentionTile(64, 128, 4, 1)), batch.meaning(problem))


PROJECTED = [
    (projected_problem(8, 2, 64, 32), [(1, 1), (1, 64), (1, 65), (1, 300)], 2),
    (projected_problem(3, 1, 80, 10, window=70), [(0, 0), (3, 70), (0, 0), (1, 129), (0, 0), (2, 2)], 0),
    (projected_problem(4, 4, 96, 48, softcap=2.0), [(1, 700)], 0),
    (projected_problem(6, 2, 128, 64, sinks=DType.F32), [(1, 128), (1, 600), (0, 0), (2, 3)], 0),
    (projected_problem(4, 2, 64, 32, kv=DType.F8), [(1, 1), (1, 300), (0, 0), (2, 70)], 0),
    (projected_problem(4, 2, 64, 32, kv=DType.F8, scaled=True), [(1, 1), (1, 300), (0, 0), (2, 70)], 0),
    (projected_problem(6, 3, 80, 10, sinks=DType.F32, softcap=2.0, scaled=True), [(1, 65), (1, 129)], 1),
    (projected_problem(3, 1, 80, 10, window=70, kv=DType.I8), [(0, 0), (3, 70), (1, 129), (0, 0), (2, 2)], 1),
    (
        projected_problem(4, 2, 64, 32, softcap=2.0, sinks=DType.F32, kv=DType.I8),
        [(1, 1), (1, 300), (2, 70), (0, 0)],
        0,
    ),
]


@pytest.mark.parametrize("tile", [DecodeTile(min_keys=64), DecodeTile(min_keys=128, early=64)], ids=str)
@pytest.mark.parametrize(("problem", "sequences", "padding"), PROJECTED, ids=str)
def test_decode_rotates_and_writes(
    problem: AttentionProblem, sequences: list[tuple[int, int]], padding: int, tile: DecodeTile
) -> None:
    given = make_projected(problem, sequences, padding)
    spec, dims = DecodeAttentionSpec(problem, tile, pdl=False), given.attended.dims
    out, cache, temps = (
        np.full(given.attended.q.shape, np.nan, BF16),
        given.kv.copy(),
        temps_of(spec, given.attended.dims),
    )
    sinks = [SINKS[: problem.num_heads]] if problem.sinks else []
    arrays = [*[given.matrix] * 3, given.cos, given.sin, given.slots, cache, *given.attended.arrays[2:]]
    run_kernel(spec, [*arrays, *side_inputs(problem), *temps, out], dims)
    close(out, given.attended.meaning(problem, *sinks))
    np.testing.assert_allclose(cache.astype(np.float32), given.attended.kv.astype(np.float32), rtol=2**-7)


@pytest.mark.parametrize(("problem", "sequences", "padding"), PROJECTED, ids=str)
def test_ragged_rotates(problem: AttentionProblem, sequences: list[tuple[int, int]], padding: int) -> None:
    given = make_projected(problem, sequences, padding)
    out = np.full(given.attended.q.shape, np.nan, BF16)
    sinks = [SINKS[: problem.num_heads]] if problem.sinks else []
    spec = RaggedAttentionSpec(problem, AttentionTile(64, 64, 4, 1), pdl=False)
    arrays = [given.matrix, given.cos, given.sin, given.attended.kv, *given.attended.arrays[2:]]
    run_kernel(spec, [*arrays, *side_inputs(problem), out], given.attended.dims)
    close(out, given.attended.meaning(problem, *sinks))


def test_a_ragged_row_never_depends_on_its_neighbours() -> None:
    problem, tile = problem_of(4, 2, 64, window=90), AttentionTile(32, 64, 4, 1)
    batch = make_batch(problem, [(30, 30), (25, 150)])
    together = run_ragged(problem, batch, tile)
    alone = Batch(batch.q[42:], batch.kv, batch.page_table[1:], np.array([0, 13], np.int32), batch.context_lens[1:])
    np.testing.assert_array_equal(run_ragged(problem, alone, tile).view(np.int16), together[42:].view(np.int16))


@pytest.mark.parametrize("sequences", [[1] * 7, [300, 1, 0, 5], [0, 0, 63], [64, 64]])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_blocks_of_ragged_sequences_do_not_overlap(sequences: list[int], group: int) -> None:
    """The numbering of blocks that the source relies on."""
    spec = RaggedAttentionSpec(problem_of(group, 1, 64), AttentionTile(64, 64, 4, 1), pdl=False)
    starts = np.cumsum([0, *sequences])
    first = starts // spec.block_t + np.arange(len(starts))
    needed = -(-np.array(sequences) // spec.block_t)
    assert (first[:-1] + needed <= first[1:]).all()
    padded = int(starts[-1]) + 100
    blocks = evaluate(spec.grid[0], {"T": padded, "S": len(sequences)})
    assert first[-1] + -(-100 // spec.block_t) <= blocks
