"""Layers of models that were never tuned: the tiles that are chosen for them are of the sort that is fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernels.linear import linear_spec, lower
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec, rings
from warploom.codegen.cuda.kernels.tiles import (
    GemmTile,
    GemvTile,
    MixedTile,
    RingTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
    Tile,
    WarpTile,
)
from warploom.codegen.cuda.layer_key import key_of
from warploom.codegen.cuda.nearest import LARGEST_F32, LARGEST_UNPACKED, MOST_REGISTERS, nearest
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.tuning import choices_for, table
from warploom.ir.types import DType

SM_90 = CudaTarget("sm_90")
SHARED_BYTES = 227 << 10
NORM = Norm(1e-5, DType.F32)
MODELS = {  # hidden, rows of q k v, columns of o, of down, vocabulary
    "llama-3.2-1b": (2048, 3072, 2048, 8192, 128256),
    "llama-3.2-3b": (3072, 5120, 3072, 8192, 128256),
    "llama-3.1-70b": (8192, 10240, 8192, 28672, 128256),
    "qwen2.5-0.5b": (896, 1152, 896, 4864, 151936),
    "qwen2.5-7b": (3584, 4608, 3584, 18944, 152064),
    "qwen3-0.6b": (1024, 4096, 2048, 3072, 151936),
    "qwen3-4b": (2560, 6144, 4096, 9728, 151936),
    "qwen3-8b": (4096, 6144, 4096, 12288, 151936),
    "qwen3-14b": (5120, 7168, 5120, 17408, 151936),
    "mistral-7b": (4096, 6144, 4096, 14336, 32768),
    "gemma-2-9b": (3584, 8192, 4096, 14336, 256000),
    "phi-4": (5120, 7680, 5120, 17920, 100352),
    "llama-3.1-8b": (4096, 6144, 4096, 14336, 128256),
}
FORMATS = {  # numbers, columns of a group (0: a row), scales, offsets
    "bf16": (DType.BF16, 0, DType.F32, False),
    "fp8": (DType.F8, 0, DType.F32, False),
    "int8": (DType.I8, 0, DType.F32, False),
    "q8_0": (DType.I8, 32, DType.F16, False),
    "int4": (DType.I4, 32, DType.F16, False),
    "int4:g64": (DType.I4, 64, DType.F16, False),
    "int4:g128": (DType.I4, 128, DType.F16, False),
    "q4_k": (DType.I4, 32, DType.F16, True),
    "awq": (DType.I4, 128, DType.F16, True),
    "gptq": (DType.I4, 128, DType.BF16, False),
    "int4 of rows": (DType.I4, 0, DType.F16, False),
}
ONE, FEW, MANY = (1,), (2, 7, 8, 16, 24, 32, 48, 64, 100, 128), (1024, 4096, 8192)


def problems(model: str, form: str) -> Iterator[LinearProblem]:
    hidden, qkv, attended, inner, words = MODELS[model]
    dtype, group, scale, offset = FORMATS[form]
    for p in (
        LinearProblem(qkv, hidden, norm=NORM),
        LinearProblem(hidden, attended, epilogue="residual"),
        LinearProblem(2 * inner, hidden, norm=NORM, epilogue="swiglu"),
        LinearProblem(hidden, inner, epilogue="residual"),
        LinearProblem(words, hidden, out=DType.F32),
    ):
        weight = Weight() if dtype is DType.BF16 else Weight(dtype, p.k // group if group else 1, scale, offset)
        yield replace(p, weight=weight, rounded=dtype is DType.F8)


def tiles_at(problem: LinearProblem, tokens: int) -> Tile:
    choices = choices_for(problem, SM_90)
    return next(c.tile for c in choices if c.up_to is None or tokens <= c.up_to)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_tiles_are_of_the_sort_that_is_fast(model: str, form: str) -> None:
    for problem in problems(model, form):
        bits = problem.weight.bits
        one = tiles_at(problem, 1)
        narrow_ring = isinstance(one, RingTile) and one.block_t == 8 and bits == 4
        assert narrow_ring or isinstance(one, GemvTile if bits == 16 else StreamTile | SegmentTile), (problem, one)
        for tokens in FEW:
            tile = tiles_at(problem, tokens)
            sort = RingTile | SkinnyTile | GemvTile if tokens < 64 else RingTile | SkinnyTile | GemmTile | WarpTile
            assert isinstance(tile, sort), (problem, tokens, tile)
            assert bits == 16 or tokens > 64 or isinstance(tile, RingTile)
            assert not isinstance(tile, MixedTile)
        for tokens in MANY if problem.out is DType.BF16 else ():  # rows of a head are few
            packed = bits < 16 and not problem.rounded and problem.n * problem.k > LARGEST_UNPACKED
            assert isinstance(tiles_at(problem, tokens), MixedTile if packed else GemmTile | WarpTile)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_results_of_f32_borrow_no_tile_that_is_too_large_for_them(model: str, form: str) -> None:
    """Small models keep their residual stream in f32: Qwen3-1.7B in FP8 asked for 278552 bytes of shared memory."""
    tuned = table("sm_90").linear  # themselves, with results of bf16
    for problem in (problem for problem in problems(model, form) if key_of(problem) not in tuned):
        for tokens in MANY:
            tile = tiles_at(replace(problem, out=DType.F32), tokens)
            assert not isinstance(tile, GemmTile) or tile.block_t * tile.block_n <= LARGEST_F32, (problem, tile)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_tiles_keep_the_gpu_busy_and_fit_it(model: str, form: str) -> None:
    for problem in problems(model, form):
        slots = {operand.name: Slot("input", index) for index, operand in enumerate(problem.operands)}
        lower(problem, Scope(slots, {"T": "T"}), choices_for(problem, SM_90), SM_90)
        for tokens in FEW:
            tile = tiles_at(problem, tokens)
            if not isinstance(tile, RingTile):
                continue
            ring = RingSpec(problem.prepared(), tile)
            assert ring.stage_bytes * tile.num_stages + 1024 <= SHARED_BYTES, (problem, tile)
            assert key_of(problem) in table("sm_90").linear or ring.registers <= MOST_REGISTERS, (problem, tile)
            assert problem.prepared().is_plain or problem.k % tile.block_k == 0
            assert ring.per_split * (tile.splits - 1) < ring.pieces, "a split without columns"
            least = 72 if problem.n * problem.k >= 1 << 22 else 32
            assert ring.tiles_n * tile.splits >= least, (problem, tile)


def test_groups_of_16_are_no_rings_of_few_tokens() -> None:
    """A warp multiplies 32 columns at once there; products of fewer were wrong on a GPU."""
    problem = LinearProblem(4096, 4096, weight=Weight(DType.I4, 256, DType.F16), epilogue="residual")
    assert not rings(problem)
    assert rings(replace(problem, weight=Weight(DType.I4, 128, DType.F16)))
    assert not any(isinstance(tiles_at(problem, tokens), RingTile) for tokens in FEW)
    assert isinstance(tiles_at(problem, 1), StreamTile)


def test_the_nearest_is_of_the_same_kind() -> None:
    tuned = table("sm_90").linear
    four = Weight(DType.I4, 4096 // 32, DType.F16)
    mistral = LinearProblem(28672, 4096, norm=NORM, epilogue="swiglu", weight=four)
    assert nearest(mistral, tuned) == key_of(mistral)
    assert nearest(replace(mistral, n=16384), tuned) == key_of(mistral)
    assert nearest(LinearProblem(5120, 5120, epilogue="residual"), tuned) == "4096x4096_residual"
    assert nearest(LinearProblem(640, 576, epilogue="residual"), tuned) == "576x576_residual"
    assert nearest(LinearProblem(8, 8), tuned) is None


@pytest.mark.parametrize(
    ("problem", "tokens"),
    [
        (LinearProblem(10240, 8192, weight=Weight(DType.I4, 64, DType.F16, offset=True)), 32),
        (LinearProblem(19456, 2560, epilogue="swiglu", weight=Weight(DType.I4, 80, DType.F16, offset=True)), 32),
        (LinearProblem(19456, 2560, epilogue="swiglu", weight=Weight(DType.I4, 80, DType.F16)), 128),
        (LinearProblem(19456, 2560, epilogue="swiglu", weight=Weight(DType.I4, 20, DType.F16)), 128),
    ],
    ids=lambda value: value if isinstance(value, int) else key_of(value),
)
def test_what_needs_most_registers_fits(problem: LinearProblem, tokens: int) -> None:
    compile_kernels([linear_spec(problem.prepared(), tiles_at(problem, tokens), SM_90)], SM_90)
