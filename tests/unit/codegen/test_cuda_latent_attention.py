"""Latent attention on CUDA: its sources in Triton's interpreter against the numpy meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.latent_caches import latent_cache
from tests.unit.codegen.triton_interpreter import run_kernel
from tests.unit.frontend.published_configs import PUBLISHED
from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.combine_latent import CombineSpec
from warploom.codegen.cuda.kernels.head_linear import HeadLinearSpec, few_tile, many_tile
from warploom.codegen.cuda.kernels.latent_attention import LatentAttentionSpec, LatentTile
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.codegen.cuda.kernels.latent_write import LatentWriteSpec
from warploom.codegen.cuda.target import cuda
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.function import functions, path_of
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.ops.latent_rows import read_rows
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.rope import rope
from warploom.ir.types import DType, type_of
from warploom.passes.pipeline import pipeline
from warploom.passes.pipeline import run as run_passes

BF16 = np.dtype(ml_dtypes.bfloat16)
PAGE = 64


@dataclass(frozen=True)
class Batch:
    """A step: sequences of `context` rows in cache, the last `query` of each being this step's tokens."""

    q_latent: np.ndarray
    q_rope: np.ndarray
    kv: np.ndarray
    page_table: np.ndarray
    query_start: np.ndarray
    context_lens: np.ndarray

    @property
    def batch(self) -> list[np.ndarray]:
        return [self.page_table, self.query_start, self.context_lens]

    @property
    def dims(self) -> dict[str, int]:
        return {"T": len(self.q_latent), "S": len(self.context_lens), "P": self.page_table.shape[1]}

    def meaning(self, scale: float) -> np.ndarray:
        wide = (x.astype(np.float64) for x in (self.q_latent, self.q_rope))
        return latent_attention.evaluate(*wide, self.kv[None], *self.batch, layer=0, page_size=PAGE, scale=scale)


def make_batch(p: LatentProblem, sequences: list[tuple[int, int]], padding: int = 0) -> Batch:
    """Random data; `sequences` are (query, context) lengths; unused cache memory is NaN."""
    rng = np.random.default_rng(1)
    pages = [-(-context // PAGE) for _, context in sequences]
    count = sum(pages) + 1
    kv = rng.standard_normal((count, PAGE, p.row)).astype(np.float32)
    order, table = iter(rng.permutation(count)), np.zeros((len(sequences), max(pages) + 1), np.int32)
    for row, (used, (_, context)) in enumerate(zip(pages, sequences, strict=True)):
        table[row, :used] = [next(order) for _ in range(used)]
        if context % PAGE:
            kv[table[row, used - 1], context % PAGE :] = np.nan
    starts = np.cumsum([0, *(query for query, _ in sequences)]).astype(np.int32)
    tokens = int(starts[-1]) + padding
    latents, turned = (rng.standard_normal((tokens, p.num_heads, n)).astype(BF16) for n in (p.latent, p.rotated))
    contexts = np.array([context for _, context in sequences], np.int32)
    return Batch(latents, turned, latent_cache(kv, p.latent, p.kv), table, starts, contexts)


def problem_of(heads: int, latent: int, rotated: int, kv: DType = DType.BF16) -> LatentProblem:
    return LatentProblem(heads, latent, rotated, (latent + rotated) ** -0.5, kv)


def run(p: LatentProblem, batch: Batch, tile: LatentTile) -> np.ndarray:
    """One launch, or two where keys are split."""
    spec = LatentAttentionSpec(p, tile, pdl=False)
    out = np.full(batch.q_latent.shape, np.nan, BF16)
    temps = [np.full(t.type.resolve(batch.dims), np.nan, np.float32) for t in spec.temps] if tile.blocks else []
    run_kernel(spec, [batch.q_latent, batch.q_rope, batch.kv, *batch.batch, *temps, out], batch.dims)
    if tile.blocks:
        run_kernel(CombineSpec(spec), [*temps, *batch.batch[1:], out], batch.dims)
    return out


def close(out: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=1.6e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("problem", "contexts", "padding", "tile"),
    [
        (problem_of(16, 512, 64), [1, 300, 64], 0, LatentTile(1, 16, 32, 4, 1, blocks=64)),
        (problem_of(5, 48, 16), [700, 1, 65], 2, LatentTile(1, 16, 32, 4, 1, blocks=500)),
        (problem_of(20, 40, 24), [129], 0, LatentTile(1, 16, 64, 4, 1, blocks=32, min_keys=128)),
        (problem_of(3, 16, 8), [2000, 40], 1, LatentTile(1, 16, 32, 4, 1, blocks=9)),
        (problem_of(16, 512, 64, DType.F8), [1, 300, 64], 0, LatentTile(1, 16, 32, 4, 1, blocks=64)),
        (problem_of(16, 512, 64, DType.I8), [1, 300, 64], 0, LatentTile(1, 16, 64, 4, 1, blocks=64)),
        (problem_of(5, 48, 16, DType.I8), [700, 1, 65], 2, LatentTile(1, 16, 32, 4, 1, blocks=500)),
        (problem_of(20, 40, 24, DType.F8), [129], 0, LatentTile(1, 16, 64, 4, 1, blocks=32, min_keys=128)),
    ],
    ids=str,
)
def test_decode_is_its_meaning(problem: LatentProblem, contexts: list[int], padding: int, tile: LatentTile) -> None:
    batch = make_batch(problem, [(1, context) for context in contexts] + [(0, 0)] * padding, padding)
    close(run(problem, batch, tile), batch.meaning(problem.scale))


def test_decode_finds_tokens_of_prompts_and_of_later_sequences() -> None:
    problem = problem_of(2, 32, 16)
    batch = make_batch(problem, [(0, 0), (2, 170), (0, 0), (1, 5)], padding=1)
    close(run(problem, batch, LatentTile(1, 16, 32, 4, 1, blocks=16)), batch.meaning(problem.scale))


@pytest.mark.parametrize(
    ("problem", "sequences", "padding", "tile"),
    [
        (problem_of(16, 512, 64), [(5, 5), (1, 70)], 0, LatentTile(4, 16, 32, 8, 1)),
        (problem_of(5, 48, 16), [(17, 17), (1, 130), (0, 0), (20, 90)], 3, LatentTile(8, 8, 32, 8, 1)),
        (problem_of(20, 40, 24), [(9, 40), (3, 3)], 1, LatentTile(1, 16, 32, 4, 1)),
        (problem_of(1, 16, 8), [(70, 200)], 70, LatentTile(64, 1, 64, 4, 1)),
        (problem_of(5, 256, 16, DType.F8), [(17, 17), (1, 130), (0, 0), (20, 90)], 3, LatentTile(8, 8, 32, 8, 1)),
        (problem_of(5, 48, 16, DType.I8), [(17, 17), (1, 130), (0, 0), (20, 90)], 3, LatentTile(8, 8, 32, 8, 1)),
    ],
    ids=str,
)
def test_ragged_is_its_meaning(
    problem: LatentProblem, sequences: list[tuple[int, int]], padding: int, tile: LatentTile
) -> None:
    batch = make_batch(problem, sequences, padding)
    close(run(problem, batch, tile), batch.meaning(problem.scale))


def test_a_ragged_row_never_depends_on_its_neighbours() -> None:
    problem, tile = problem_of(4, 32, 16), LatentTile(16, 4, 32, 4, 1)
    batch = make_batch(problem, [(30, 30), (25, 150)])
    together = run(problem, batch, tile)
    alone = replace(
        batch,
        q_latent=batch.q_latent[42:],
        q_rope=batch.q_rope[42:],
        page_table=batch.page_table[1:],
        query_start=np.array([0, 13], np.int32),
        context_lens=batch.context_lens[1:],
    )
    np.testing.assert_array_equal(run(problem, alone, tile).view(np.int16), together[42:].view(np.int16))


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F8, DType.I8], ids=str)
@pytest.mark.parametrize(("latent", "rotated", "heads"), [(48, 16, 5), (512, 64, 16), (384, 24, 0)])
def test_rows_are_normed_rotated_and_written(latent: int, rotated: int, heads: int, dtype: DType) -> None:
    rng, tokens, width = np.random.default_rng(0), 6, 8 + latent + rotated * (heads + 1)
    matrix = rng.standard_normal((tokens, width)).astype(BF16)
    angle = rng.uniform(0, 6, (tokens, rotated // 2))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    slots = np.array([3, -1, 128, 64, 0, 191], np.int32)
    gain = (rng.uniform(0.5, 2, latent) * 2.0 ** (np.arange(latent) // 128)).astype(BF16)
    cache = latent_cache(rng.standard_normal((3, PAGE, latent + rotated)).astype(np.float32), latent, dtype)
    places = [Range(start, width) for start in (8, 8 + latent, 8 + latent + rotated)]
    spec = LatentWriteSpec(
        latent=latent,
        rotated=rotated,
        num_heads=heads,
        x=DType.BF16,
        kv=dtype,
        gain=DType.BF16,
        eps=1e-6,
        half=rotated // 2,
        latents=places[0],
        keys=places[1],
        queries=places[2] if heads else None,
        pdl=False,
    )
    wide = matrix.astype(np.float32)
    keys, queries = wide[:, 8 + latent :][:, None, :rotated], wide[:, 8 + latent + rotated :]
    row = rms_norm.evaluate(wide[:, 8 : 8 + latent], gain, eps=1e-6), rope.evaluate(keys, cos, sin)[:, 0]
    narrow = [part.astype(BF16).astype(np.float32) for part in row]
    expected = latent_write.evaluate(cache[None], *narrow, slots, layer=0, page_size=PAGE)[0]
    out = [np.full((tokens, heads, rotated), np.nan, BF16)] if heads else []
    run_kernel(spec, [*[matrix] * (3 if heads else 2), gain, cos, sin, slots, cache, *out], {"T": tokens})
    found, wanted = (
        read_rows(x[None], 0, latent, rotated, np.arange(3), PAGE, np.dtype("f4")) for x in (cache, expected)
    )
    digits = {DType.BF16: (2**-7, 0), DType.F8: (2**-3, 2**-9), DType.I8: (0, 2**-5)}[dtype]  # one rounding apart
    np.testing.assert_allclose(found, wanted, *digits)
    if dtype is not DType.BF16:
        assert np.mean(cache.view(np.int8) != expected.view(np.int8)) < 0.01
    if heads:
        turned = rope.evaluate(queries.reshape(tokens, heads, rotated), cos, sin)
        np.testing.assert_allclose(out[0].astype(np.float32), turned, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("weight", [DType.BF16, DType.F32])
@pytest.mark.parametrize(("heads", "n", "k", "tokens"), [(5, 48, 24, 7), (2, 20, 520, 3), (3, 128, 64, 140)])
def test_head_linear_is_its_meaning(heads: int, n: int, k: int, tokens: int, weight: DType) -> None:
    rng, width = np.random.default_rng(n), heads * k + 16
    matrix = rng.standard_normal((tokens, width)).astype(BF16)
    matrices = (rng.standard_normal((heads * n, k)) / k**0.5).astype(weight.numpy)
    x = matrix[:, 8:-8].reshape(tokens, heads, k).astype(np.float64)
    expected = head_linear.evaluate(x, matrices.astype(np.float64), n=n)
    for tile in (few_tile(n, k), many_tile(n, k)):
        out = np.full((tokens, heads, n), np.nan, BF16)
        spec = HeadLinearSpec(heads, n, k, weight, Range(8, width), tile, pdl=False)
        run_kernel(spec, [matrix, matrices, out], {"T": tokens})
        close(out, expected)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("name", ["DeepSeek-V2-Lite", "DeepSeek-V3"])
def test_a_layer_is_few_launches(name: str) -> None:
    """Of attention: one merged projection for each of what it reads; the write with norm and rotations."""
    config = PUBLISHED[name] | {"num_hidden_layers": 1, "first_k_dense_replace": 1}
    cache = CacheSpec(page_size=PAGE, dtype=DType.BF16, k_layout="token_major")
    module = trace(config, dummy_tensor, cache, Limits(64, 4, 512), DType.BF16)
    for _ in run_passes(module, pipeline(cuda(CudaTarget("sm_90")), "bf16")):
        pass
    found = functions(module)
    calls = [op for op in found["step"].ops if op.name == "func.call" and path_of(op).endswith("self_attn")]
    kinds = [str(found[op.attributes["callee"].value].operation.attributes["wl.kind"].value) for op in calls]
    # Of V3 the latent of queries is copied out of the merged product: what norms it reads whole rows.
    first = ["linear"] if config["q_lora_rank"] is None else ["linear", "loops", "linear"]
    attention = ["latent_write", "absorbed_attention", "linear"]
    assert sorted(kinds) == sorted([*first, *attention])
    (kv,) = (value for key, value in found["step"].inputs.items() if key == "kv")
    assert str(type_of(kv).shape[2:]) == f"(1, 1, {PAGE * 576})"
