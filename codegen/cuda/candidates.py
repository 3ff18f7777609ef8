"""The tiles that tuning tries for a linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec

from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec, rings
from warploom.codegen.cuda.kernels.segment_gemv import SegmentSpec, segments
from warploom.codegen.cuda.kernels.stream_gemv import StreamSpec, streams
from warploom.codegen.cuda.kernels.tiles import (
    Choice,
    GemmTile,
    GemvTile,
    MixedTile,
    RingTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
    WarpTile,
)
from warploom.codegen.cuda.kernels.warp_gemm import warps_take
from warploom.codegen.cuda.nearest import MOST_REGISTERS, ROOMS, narrowed
from warploom.ir.types import DType

SMALL_WEIGHT = 1 << 23  # elements; below it time goes to latency, and few tiles are worth a try


def candidates(problem: LinearProblem, thorough: bool = True) -> Iterator[Choice]:
    """Choices for single ranges of tokens; `thorough`: all that may be fastest, else one of each sort."""
    if streams(problem):
        yield from (Choice(1, tile, fused_norm=True) for tile in _stream(problem, thorough))
    if segments(problem):
        yield from (Choice(1, tile, fused_norm=True) for tile in _segment(problem, thorough))
    if problem.weight.dtype is DType.BF16:
        yield from (_all if thorough else _one_of_each)(problem)
    else:
        yield from (_all_quantized if thorough else _one_of_each_quantized)(problem.prepared())


def neighbours(choice: Choice) -> Iterator[Choice]:
    """What is one step away from a choice that is good already."""
    tile, change = choice.tile, msgspec.structs.replace
    steps: list[dict[str, int]]
    if isinstance(tile, GemvTile):
        steps = [{"ahead": n} for n in (1, 2, 3, 4, 6, 8)] + [{"num_warps": n} for n in (1, 2, 4, 8)]
    elif isinstance(tile, StreamTile):
        steps = [{"ahead": n} for n in (1, 2, 3, 4, 6, 8)] + [{"blocks": n} for n in (132, 264, 396)]
        steps += [{"block_n": n} for n in (1, 2, 4, 8)]
    elif isinstance(tile, SegmentTile):
        steps = [{"ahead": n} for n in (2, 4, 6, 8, 12)] + [{"blocks": n} for n in (132, 264, 396)]
    elif isinstance(tile, SkinnyTile):
        steps = [{"ahead": n} for n in (0, 1, 4, 8)] + [{"num_stages": tile.num_stages + n} for n in (-1, 1, 2)]
        steps += [{"splits": n} for n in (1, 2, 3, 4, 5, 6) if choice.up_to is not None]
    elif isinstance(tile, RingTile):
        steps = [{"num_stages": tile.num_stages + n} for n in (-2, -1, 1, 2)]
        steps += [{"splits": n} for n in (1, 2, 3, 4, 6, 8) if choice.up_to is not None]
    elif isinstance(tile, MixedTile | WarpTile):
        steps = [{"num_stages": tile.num_stages + n} for n in (-1, 1)]
    else:
        steps = [{"group": n} for n in (1, 4, 16, 32)] + [{"num_stages": tile.num_stages + n} for n in (-1, 1)]
    for step in steps:
        if (found := change(tile, **step)) != tile:
            yield change(choice, tile=found)


def _one_of_each(problem: LinearProblem) -> Iterator[Choice]:
    """Code paths that the default choices do not take."""
    yield Choice(1, GemvTile(4, 256, 2, num_warps=4), fused_norm=True)
    yield Choice(3, GemvTile(2, 256, 2, num_warps=4, block_t=3), fused_norm=True)
    for tokens, splits, ahead, tma, fused in (
        (16, 1, 2, False, False),
        (16, 3, 2, True, True),
        (32, 2, 0, False, True),
        (64, 1, 2, True, True),
        (128, 2, 2, True, False),
    ):
        tile = SkinnyTile(64, min(tokens, 64), 64, num_warps=4, num_stages=3, splits=splits, ahead=ahead, tma=tma)
        yield Choice(tokens, tile, fused_norm=fused)
    if problem.operands_by_tma:
        ring = RingTile(64, 16, 64, num_warps=4, num_stages=3)
        change = msgspec.structs.replace
        yield Choice(16, ring)
        yield Choice(64, change(ring, block_n=128, block_t=32, block_k=128, splits=2))
        yield Choice(128, change(ring, block_n=128, block_t=64, num_warps=8))
    yield Choice(None, GemmTile(64, 64, 64, num_warps=4, num_stages=3))
    if problem.operands_by_tma:
        yield Choice(None, GemmTile(128, 128, 64, num_warps=8, num_stages=3, blocks=132, tma=True))
        yield Choice(None, GemmTile(128, 256, 64, num_warps=8, num_stages=3, tma=True, halves=True))
    yield from (Choice(None, tile) for tile in _warps(problem))


def _all(problem: LinearProblem) -> Iterator[Choice]:
    for tokens in (1, 2, 4):
        yield from (Choice(tokens, tile, fused_norm=problem.norm is not None) for tile in _gemv(problem, tokens))
    for tokens in (16, 32, 64, 128, 256, 512):
        for tile in _skinny(problem, tokens):
            yield Choice(tokens, tile)
            if problem.norm is not None and tokens <= 32:
                yield Choice(tokens, tile, fused_norm=True)
    if problem.operands_by_tma:
        for tokens in (16, 32, 64, 128):
            yield from (Choice(tokens, tile) for tile in _ring(problem, tokens))
    yield from (Choice(None, tile) for tile in _gemm(problem))
    yield from (Choice(None, tile) for tile in _warps(problem))


def _one_of_each_quantized(problem: LinearProblem) -> Iterator[Choice]:
    """Code paths of quantized weights."""
    if rings(problem) and (problem.is_plain or problem.k % 256 == 0):
        for end, tile in (
            (16, RingTile(64, 16, 128, num_warps=4, num_stages=3)),
            (64, RingTile(128, 32, 256, num_warps=4, num_stages=2, splits=2)),
            (128, RingTile(64, 64, 128, num_warps=4, num_stages=3)),
            (256, RingTile(128, 128, 128, num_warps=8, num_stages=2, splits=2)),
        ):
            if RingSpec(problem, tile).registers <= MOST_REGISTERS:
                yield Choice(end, tile)
    if not problem.is_plain:
        yield Choice(None, MixedTile(64, 32, num_warps=4, num_stages=3))
        yield Choice(None, narrowed(problem, MixedTile(128, 64, num_warps=8, num_stages=2)))
        yield Choice(None, GemmTile(64, 64, 64, num_warps=4, num_stages=3))
        return
    yield Choice(None, GemmTile(64, 64, 64, num_warps=4, num_stages=3))
    if problem.operands_by_tma:
        yield Choice(None, GemmTile(128, 128, 128, num_warps=8, num_stages=3, blocks=132, tma=True))
        yield Choice(None, GemmTile(128, 256, 128, num_warps=8, num_stages=3, tma=True, halves=True))
    yield from (Choice(None, tile) for tile in _warps(problem))


def _all_quantized(problem: LinearProblem) -> Iterator[Choice]:
    for tokens in (8, 16, 32, 64, 128):
        if rings(problem) and (tokens > 8 or not problem.is_plain):
            yield from (Choice(tokens, tile) for tile in _ring(problem, tokens))
    if problem.is_plain:
        yield from (Choice(None, tile) for tile in _gemm(problem))
        yield from (Choice(None, tile) for tile in _warps(problem))
        return
    for outputs, tokens, warps, stages in product((64, 128), (64, 128, 256), (4, 8), (2, 3, 4)):
        if 4096 <= outputs * tokens * (1 if warps == 4 else 0.5) <= 16384 and (outputs, warps) != (64, 8):
            yield Choice(None, MixedTile(outputs, tokens, warps, stages))


def _gemv(problem: LinearProblem, tokens: int) -> Iterator[GemvTile]:
    longest = next_power_of_2(problem.k)
    for rows, columns, warps, ahead in product((1, 2, 4), (512, 1024, 2048), (1, 2, 4, 8), (2, 4, 8)):
        per_thread = len(problem.parts) * rows * columns / (32 * warps)
        pieces = -(-problem.k // columns)
        in_flight = min(ahead, pieces) * per_thread
        few = tokens == 1 or (warps >= 2 and ahead < 8 and in_flight <= 64)
        if columns > longest or ahead > max(2, pieces) or not few:
            continue
        if 8 <= per_thread <= 32 and 24 <= in_flight <= 128 and tokens * per_thread <= 128:
            yield GemvTile(rows, columns, ahead, warps, tokens)


def _stream(problem: LinearProblem, thorough: bool) -> Iterator[StreamTile]:
    if not thorough:
        yield StreamTile(2, ahead=2, blocks=24, num_warps=4)
        return
    parts = len(problem.parts)
    for rows, ahead, blocks, warps in product((1, 2, 4, 8), (2, 3, 4, 6, 8), (132, 264, 396), (4, 8, 16)):
        spec = StreamSpec(problem, StreamTile(rows, ahead, blocks, warps), pdl=True)
        loads = -(-parts * rows * spec.piece // (32 * warps)) * spec.pieces  # of 16 bytes, of a thread
        numbers = spec.pieces * 4 * spec.numbers  # of x
        resident = warps * blocks // 132
        if spec.ahead == ahead and 8 <= resident <= 16 and 4 <= loads * ahead <= 20 and numbers <= 64:
            yield spec.tile


def _segment(problem: LinearProblem, thorough: bool) -> Iterator[SegmentTile]:
    if not thorough:
        yield SegmentTile(ahead=3, blocks=5, num_warps=4)
        return
    parts = len(problem.parts)
    for ahead, blocks, warps in product((4, 8, 12), (132, 264, 396), (4, 8, 16)):
        spec = SegmentSpec(problem, SegmentTile(ahead, blocks, warps))
        in_flight = ahead * parts * 8  # registers
        if spec.ahead == ahead and 8 <= warps * blocks // 132 <= 16 and in_flight <= 128 and spec.rounds <= 16:
            yield spec.tile


def _skinny(problem: LinearProblem, tokens: int) -> Iterator[SkinnyTile]:
    small = problem.n * problem.k <= SMALL_WEIGHT
    block_t = min(tokens, 128)
    for rows, columns, stages, tma in product((64, 128, 256), (64, 128, 256), (3, 4, 6), (True, False)):
        waiting = (rows + block_t) * columns * 2 * stages
        if not 48 << 10 <= waiting <= 200 << 10 or (not tma and (rows, columns, stages) != (64, 128, 4)):
            continue
        if (small and (rows, stages) != (64, 4)) or (rows == 256) != (tokens == 512):
            continue
        tiles = -(-problem.n // rows) * -(-tokens // block_t)
        for splits in (1, 2, 4, 8):
            blocks = tiles * splits
            enough = small or blocks >= 96
            if problem.k // splits >= 2 * columns and enough and (splits == 1 or blocks <= 600):
                warps = 8 if rows * block_t > 8192 else 4
                yield SkinnyTile(rows, block_t, columns, warps, stages, splits, ahead=2, tma=tma)


def _ring(problem: LinearProblem, tokens: int) -> Iterator[RingTile]:
    parts = len(problem.parts)
    sizes = {16: (64, 128, 256), 8: (128, 256, 512), 4: (128, 256, 512, 1024)}[problem.weight.bits]
    for outputs, columns, splits in product((64, 128), sizes, (1, 2, 3, 4)):
        warps = 8 if outputs * parts * tokens > 8192 and outputs == 128 else 4
        spec = RingSpec(problem, RingTile(outputs, tokens, columns, warps, num_stages=1, splits=splits))
        blocks = spec.tiles_n * splits
        if not problem.is_plain and problem.k % columns:
            continue
        if spec.registers > MOST_REGISTERS or spec.per_split * (splits - 1) >= spec.pieces:
            continue
        if (splits > 1 and blocks > 640) or blocks < 96:
            continue
        for room in ROOMS:
            stages = min((room - 1024) // spec.stage_bytes, spec.per_split, 8)
            if stages >= 2 and stages * spec.stage_bytes > 40 << 10:
                yield msgspec.structs.replace(spec.tile, num_stages=stages)


def _gemm(problem: LinearProblem) -> Iterator[GemmTile]:
    if problem.weight.dtype is DType.F8:
        yield from _gemm_of_bytes(problem)
        return
    for tokens, outputs, columns, warps, stages, halves in (
        (64, 64, 128, 4, 4, False),
        (64, 128, 64, 4, 4, False),
        (64, 128, 128, 4, 3, False),
        (64, 256, 64, 4, 4, False),
        (64, 256, 64, 8, 4, False),
        (128, 64, 64, 4, 4, False),
        (128, 64, 128, 4, 3, False),
        (128, 128, 64, 4, 4, False),
        (128, 128, 64, 8, 4, False),
        (128, 128, 128, 8, 3, False),
        (128, 256, 64, 8, 3, False),
        (128, 256, 64, 8, 3, True),
        (128, 256, 64, 8, 4, False),
        (128, 256, 64, 8, 4, True),
        (256, 128, 64, 8, 3, False),
        (256, 128, 64, 8, 4, True),
        (128, 128, 64, 4, 3, True),  # two of these fit a multiprocessor: one computes while the other stores
        (128, 128, 64, 8, 3, True),
    ):
        if problem.n * problem.k > SMALL_WEIGHT or (outputs <= 128 and columns == 64):
            for blocks in (0, 132, 264):
                yield GemmTile(tokens, outputs, columns, warps, stages, blocks=blocks, tma=True, halves=halves)


def _warps(problem: LinearProblem) -> Iterator[WarpTile]:
    if warps_take(problem):
        yield WarpTile(128, num_stages=6)
        yield WarpTile(256, num_stages=4 if problem.epilogue == "swiglu" else 3)


def _gemm_of_bytes(problem: LinearProblem) -> Iterator[GemmTile]:
    for tokens, outputs, columns, warps, stages, halves in (
        (64, 128, 128, 4, 4, False),
        (64, 256, 128, 4, 3, False),
        (128, 64, 128, 4, 4, False),
        (128, 128, 128, 4, 3, False),
        (128, 128, 128, 8, 4, False),
        (128, 256, 128, 8, 3, False),
        (128, 256, 128, 8, 3, True),
        (128, 256, 128, 8, 4, True),
        (256, 128, 128, 8, 3, False),
        (256, 128, 128, 8, 3, True),
        (128, 256, 64, 8, 4, True),
    ):
        for blocks, group in ((0, 8), (132, 8), (132, 16)):
            yield GemmTile(tokens, outputs, columns, warps, stages, group, blocks=blocks, tma=True, halves=halves)
