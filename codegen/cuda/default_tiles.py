"""Tiles by rule, of linear layers that are like none that was tuned."""

from __future__ import annotations

import msgspec

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec, rings
from warploom.codegen.cuda.kernels.segment_gemv import SegmentSpec, segments
from warploom.codegen.cuda.kernels.stream_gemv import streams
from warploom.codegen.cuda.kernels.tiles import (
    Choice,
    GemmTile,
    GemvTile,
    MixedTile,
    RingTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
)
from warploom.codegen.cuda.nearest import LARGEST_UNPACKED, LONGEST_CODE, MOST_REGISTERS, splits_for
from warploom.ir.types import DType

FULL = 96  # blocks that keep most of a large GPU busy
UNPACKED_FROM = 256  # tokens, from which on it pays to make quantized weights bf16 first
RING_COLUMNS = 128
LONG_ROW = 8192  # columns
STREAMS = 264  # blocks of a GEMV of quantized weights: two of a multiprocessor of an H100
HALF_OF_SHARED = 112 << 10  # of a multiprocessor of Hopper, less what a block itself needs


def default_choices(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """Tiles by rule."""
    has_norm = problem.norm is not None
    if problem.weight.dtype is not DType.BF16:
        return _quantized(problem, target)
    skinny = [Choice(t, skinny_tile(problem, t, target), fused_norm=has_norm and t <= 16) for t in (16, 32, 64)]
    few, many = _gemms(problem, target)
    return (Choice(1, _gemv(problem), fused_norm=has_norm), *skinny, Choice(512, few), Choice(None, many))


def _gemv(problem: LinearProblem) -> GemvTile:
    """Long rows: a few a block, so that many bytes are in flight. Short rows: many blocks."""
    if problem.k >= 2048:
        return GemvTile(2, 1024, ahead=2 if problem.epilogue == "swiglu" else 4, num_warps=4)
    return GemvTile(2, 512, ahead=2, num_warps=2)


def skinny_tile(problem: LinearProblem, tokens: int, target: CudaTarget) -> SkinnyTile:
    """Split until there are blocks for most of the GPU, but not below 512 columns."""
    tiles = -(-problem.n // 64)
    splits = 1
    while tiles * splits < FULL and problem.k // (2 * splits) >= 512:
        splits *= 2
    if target.has_tma and problem.operands_by_tma and _is_large(target):
        return SkinnyTile(64, tokens, 128, num_warps=4, num_stages=4, splits=splits, ahead=2, tma=True)
    return SkinnyTile(64, tokens, 64, num_warps=4, num_stages=3, splits=splits)


def _quantized(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """Tiles of quantized weights: a GEMV, a ring for few tokens where there is one, then one kind for all."""
    mixed = not problem.prepared().is_plain
    found = []
    if target.has_wgmma and rings(problem.prepared()) and (not mixed or problem.k % RING_COLUMNS == 0):
        found = [Choice(t, _ring(problem, t)) for t in (16, 32, 64, 128)]
    one = [Choice(1, _one_token(problem, target), fused_norm=True)] if streams(problem) else []
    if found and problem.weight.dtype is DType.I4 and problem.epilogue == "swiglu":
        one = []  # two streams of four bits: a GEMV has too few registers to be faster than the ring
    if mixed:
        few = found or [Choice(16, MixedTile(64, 16, num_warps=4, num_stages=4))]
        some = MixedTile(64, 64, num_warps=4, num_stages=3)
        if problem.n * problem.k > LARGEST_UNPACKED or target.deterministic:
            return (*one, *few, Choice(None, some))
        return (*one, *few, Choice(UNPACKED_FROM, some), Choice(None, _gemms(problem.unpacked(), target)[1]))
    large = target.has_tma and _is_large(target) and problem.operands_by_tma
    small = GemmTile(64 if found else 16, 128, 128 if large else 64, num_warps=4, num_stages=3, tma=large)
    if not large:
        return (*one, Choice(128, small), Choice(None, GemmTile(128, 128, 64, num_warps=8, num_stages=3)))
    many = GemmTile(128, 256, 128, num_warps=8, num_stages=3, blocks=132, tma=True, halves=True)
    return (*one, *found, Choice(512, small), Choice(None, many if problem.out is DType.BF16 else small))


def _one_token(problem: LinearProblem, target: CudaTarget) -> StreamTile | SegmentTile:
    """Tensor cores for FP8 and long rows of int4, where there are Hopper's and the code, unrolled, is short."""
    tile = SegmentTile(ahead=8, blocks=STREAMS // 2, num_warps=8)
    faster = problem.weight.dtype is DType.F8 or (problem.weight.dtype is DType.I4 and problem.k > LONG_ROW)
    if target.has_wgmma and faster and segments(problem) and SegmentSpec(problem, tile).products <= LONGEST_CODE:
        return tile
    return _stream(problem)


def _stream(problem: LinearProblem) -> StreamTile:
    """Rows in flight as long as registers last."""
    if problem.epilogue == "swiglu":
        return StreamTile(2, ahead=4, blocks=STREAMS, num_warps=8)
    if problem.k > LONG_ROW:
        return StreamTile(1, ahead=2, blocks=STREAMS, num_warps=8)
    return StreamTile(4, ahead=2, blocks=STREAMS, num_warps=8)


def _ring(problem: LinearProblem, tokens: int) -> RingTile:
    """As many stages as fit half a multiprocessor, split until there are blocks for most of the GPU."""
    tile = RingTile(64, tokens, _ring_columns(problem, tokens), num_warps=4, num_stages=1)
    spec = RingSpec(problem.prepared(), tile)
    if spec.registers > MOST_REGISTERS:
        return _ring(problem, tokens // 2)
    splits = splits_for(spec.tiles_n, FULL, spec.pieces)
    stages = max(2, min(8, HALF_OF_SHARED // spec.stage_bytes, -(-spec.pieces // splits)))
    return msgspec.structs.replace(tile, num_stages=stages, splits=splits)


def _ring_columns(problem: LinearProblem, tokens: int) -> int:
    """Fewer bits and few tokens, more columns: there is as much to multiply for every wait."""
    columns = RING_COLUMNS * (1 if tokens > 32 else 16 // problem.weight.bits)
    while problem.k % columns and columns > RING_COLUMNS:
        columns //= 2
    return columns


def _gemms(problem: LinearProblem, target: CudaTarget) -> tuple[GemmTile, GemmTile]:
    """Tiles for few hundred tokens, and for more."""
    if not _is_large(target):
        return GemmTile(64, 128, 32, num_warps=4, num_stages=3), GemmTile(128, 128, 32, num_warps=8, num_stages=3)
    if not (target.has_tma and problem.operands_by_tma):
        return GemmTile(64, 128, 64, num_warps=4, num_stages=3), GemmTile(128, 128, 64, num_warps=8, num_stages=3)
    few = GemmTile(64, 128, 64, num_warps=4, num_stages=4, tma=True)
    if problem.n < 4096 or problem.out is DType.F32:
        return few, GemmTile(128, 128, 64, num_warps=8, num_stages=3, tma=True)
    return few, GemmTile(128, 256, 64, num_warps=8, num_stages=3, blocks=132, tma=True, halves=True)


def _is_large(target: CudaTarget) -> bool:
    """Whether blocks have the shared memory of a data centre's GPU."""
    return target.shared_bytes > 128 << 10
