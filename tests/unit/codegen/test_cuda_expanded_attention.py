"""Expanded keys of latent attention: the kernels of a step with long chunks in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.test_cuda_latent_attention import PAGE, Batch, close, make_batch
from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.columns import Range
from warploom.codegen.cuda.kernels.expand_latents import ExpandLatentsSpec, ExpandTile
from warploom.codegen.cuda.kernels.expanded_attention import ExpandedAttentionSpec, ExpandedProblem
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion, room_for
from warploom.codegen.cuda.kernels.head_linear import HeadLinearSpec, many_tile
from warploom.codegen.cuda.kernels.latent_attention import LatentAttentionSpec, LatentTile
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.codegen.cuda.kernels.ragged_attention import AttentionTile
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.types import DType

BF16 = np.dtype(ml_dtypes.bfloat16)
START, MARGIN = 8, 16  # columns around the queries in their matrix


def attend(
    e: Expansion, batch: Batch, matrix: np.ndarray, weights: list[np.ndarray], scale: float, kv: DType
) -> np.ndarray:
    """The launches of `absorbed_attention` where keys are expanded; unwritten memory is NaN."""
    heads, tokens = e.num_heads, len(matrix)
    of_keys, of_values = weights
    queries = Range(START, matrix.shape[1])
    latents, mixed = (np.full((tokens, heads, e.latent), np.nan, BF16) for _ in range(2))
    lse = np.full((tokens, heads), np.nan, np.float32)
    out = np.full((tokens, heads, e.value), np.nan, BF16)
    expanded = [np.full(shape, np.nan, BF16) for shape in e.shapes]
    lengths = batch.batch[1:]

    def run(spec: object, *arrays: np.ndarray) -> None:
        run_kernel(spec, list(arrays), batch.dims)

    to_latents = HeadLinearSpec(
        heads, e.latent, e.plain, DType.BF16, queries, many_tile(e.latent, e.plain), pdl=False, expansion=e
    )
    run(to_latents, matrix, of_keys, *lengths, latents)
    problem = LatentProblem(heads, e.latent, e.rotated, scale, kv)
    rest = LatentAttentionSpec(problem, LatentTile(4, 4, 32, 4, 1), pdl=False, expansion=e)
    run(rest, latents, batch.q_rope, batch.kv, *batch.batch, lse, mixed)
    tile = many_tile(e.value, e.latent)
    to_values = HeadLinearSpec(
        heads, e.value, e.latent, DType.BF16, Range(0, heads * e.latent), tile, pdl=False, expansion=e
    )
    run(to_values, mixed.reshape(tokens, -1), of_values, *lengths, out)
    expand = ExpandLatentsSpec(e, (DType.BF16, DType.BF16), ExpandTile(64, 16, 4, 1), pdl=False, kv=kv)
    run(expand, batch.kv, *weights, *batch.batch, *expanded)
    final = ExpandedAttentionSpec(ExpandedProblem(e, queries, scale), AttentionTile(64, 32, 4, 1), pdl=False)
    run(final, matrix, batch.q_rope, *expanded, *lengths, lse, out)
    return out


def meaning(e: Expansion, batch: Batch, matrix: np.ndarray, weights: list[np.ndarray], scale: float) -> np.ndarray:
    """The three ops."""
    of_keys, of_values = (w.astype(np.float64) for w in weights)
    plain = matrix[:, START:-MARGIN].astype(np.float64).reshape(len(matrix), e.num_heads, e.plain)
    q_latent = head_linear.evaluate(plain, of_keys, n=e.latent)
    return head_linear.evaluate(replace(batch, q_latent=q_latent).meaning(scale), of_values, n=e.value)


def make(
    e: Expansion, sequences: list[tuple[int, int]], padding: int, kv: DType = DType.BF16
) -> tuple[Batch, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    batch = make_batch(LatentProblem(e.num_heads, e.latent, e.rotated, 1.0, kv), sequences, padding)
    matrix = rng.standard_normal((len(batch.q_latent), START + e.num_heads * e.plain + MARGIN)).astype(BF16)
    shapes = (e.num_heads * e.latent, e.plain), (e.num_heads * e.value, e.latent)
    return batch, matrix, [(rng.standard_normal(shape) / e.latent**0.5).astype(BF16) for shape in shapes]


WIDE = [(2, 48, 24, 16, 40), (3, 32, 16, 8, 16)]  # heads, latent, plain, rotated, value
BATCHES = [
    ([(150, 150)], 0, 256),
    ([(1, 70), (140, 300), (0, 0), (5, 20)], 3, 384),
    ([(130, 130), (129, 500), (2, 90), (128, 260)], 1, 640),  # room for some keys of the second, none of the last
    ([(200, 200)], 0, 128),  # tokens of the chunk before those keys that there is room for
]


@pytest.mark.parametrize(
    ("sequences", "padding", "room", "sizes", "kv"),
    [
        *((*batch, sizes, DType.BF16) for sizes in WIDE for batch in BATCHES),
        (*BATCHES[1], (1, 256, 16, 8, 24), DType.F8),
        (*BATCHES[3], WIDE[0], DType.I8),
    ],
    ids=str,
)
def test_a_step_with_long_chunks_is_its_meaning(
    sequences: list[tuple[int, int]], padding: int, room: int, sizes: tuple[int, int, int, int, int], kv: DType
) -> None:
    heads, latent, plain, rotated, value = sizes
    e = Expansion(room, heads, latent, plain, rotated, value)
    batch, matrix, weights = make(e, sequences, padding, kv)
    scale = (plain + rotated) ** -0.5
    close(attend(e, batch, matrix, weights, scale, kv), meaning(e, batch, matrix, weights, scale))


def test_keys_are_expanded_of_sequences_with_many_tokens_only() -> None:
    """The others' latents are never read, nor is there a product for them."""
    e = Expansion(256, 1, 32, 16, 8, 16)
    batch, _, weights = make(e, [(FEWEST - 1, 200), (FEWEST, FEWEST + 3)], 0)
    expanded = [np.full(shape, np.nan, BF16) for shape in e.shapes]
    spec = ExpandLatentsSpec(e, (DType.BF16, DType.BF16), ExpandTile(64, 16, 4, 1), pdl=False)
    run_kernel(spec, [batch.kv, *weights, *batch.batch, *expanded], batch.dims)
    for array in expanded:
        wide = array.astype(np.float32)
        assert np.isfinite(wide[: 2 * ALIGNED]).all()
        assert (wide[FEWEST + 3 :] == 0).all()
        assert np.abs(wide[: FEWEST + 3]).min(1).max() > 0
    last = batch.page_table[1, (FEWEST + 2) // PAGE], (FEWEST + 2) % PAGE
    rows = batch.kv.reshape(len(batch.kv), PAGE, e.latent + e.rotated)
    np.testing.assert_array_equal(expanded[2][FEWEST + 2], rows[last][e.latent :])


def test_there_is_room_for_a_step_and_for_some_context() -> None:
    assert room_for(16, 128, 128, tokens=8192, context=1 << 17) == 8192 + 16384
    assert room_for(128, 128, 128, tokens=8192, context=1 << 17) == 8192 + 2048
    assert room_for(16, 128, 128, tokens=512, context=1000) == 4 * 1024  # all that may ever be wanted
    assert room_for(16, 128, 128, tokens=64, context=100) == ALIGNED
