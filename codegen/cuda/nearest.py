"""Tiles of a layer that was not tuned: those of the nearest that was, made to fit."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from warploom.codegen.cuda.architecture import H100_MULTIPROCESSORS
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec, rings
from warploom.codegen.cuda.kernels.segment_gemv import SegmentSpec, segments
from warploom.codegen.cuda.kernels.stream_gemv import streams
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
from warploom.codegen.cuda.layer_key import LayerKey
from warploom.ir.layouts import split_block
from warploom.ir.types import DType

FAR = 6.0  # doublings of extents, in all
LONGEST_CODE = 128  # products of a warp of segments, one after another
LARGEST_UNPACKED = 1 << 28  # elements of a quantized weight that is made bf16 first
ROOMS = (75 << 10, 113 << 10, 227 << 10)  # of shared memory: three to one blocks of a multiprocessor
MOST_REGISTERS = 208  # as a ring counts them: with more of these the compiler spilled
LARGEST_F32 = 128 * 128  # results of a tile that are f32: they leave through shared memory, beside the stages
MOST_SUMS = 128  # of a thread of a mixed product
WASTE = 1.15  # of a row's last piece


def nearest(problem: LinearProblem, keys: Iterable[str]) -> str | None:
    """The key of the tuned layer that is most like a problem; None: none is."""
    found = min(((_distance(problem, key), key) for key in keys), default=(math.inf, ""))
    return found[1] if found[0] <= FAR else None


def _distance(problem: LinearProblem, key: str) -> float:
    """Doublings between extents; infinite between layers that run other kernels."""
    this, other = LayerKey.of(problem), LayerKey.parse(key)
    if this.numbers != other.numbers or (this.epilogue == "swiglu") != (other.epilogue == "swiglu"):
        return math.inf
    apart = abs(math.log2(this.n / other.n)) + abs(math.log2(this.k / other.k))
    if other.groups:
        apart += abs(math.log2(this.k / this.groups / (other.k / other.groups))) / 2
    differences = this.offset != other.offset, this.norm != other.norm, this.epilogue != other.epilogue
    return apart + sum(differences) / 4


def fitted(problem: LinearProblem, key: str, tile: Tile) -> Tile | None:
    """A tile of the layer of a key as a problem can use it; None: it cannot."""
    if isinstance(tile, GemvTile):
        return _whole_rows(problem, tile)
    if isinstance(tile, StreamTile):
        return tile if streams(problem) else None
    if isinstance(tile, SegmentTile):
        return tile if segments(problem) and SegmentSpec(problem, tile).products <= LONGEST_CODE else None
    if isinstance(tile, RingTile):
        return _ring(problem.prepared(), tile, _blocks(key, tile))
    if isinstance(tile, SkinnyTile):
        splits = splits_for(-(-problem.width // tile.block_n), _blocks(key, tile), -(-problem.k // tile.block_k))
        return msgspec.structs.replace(tile, splits=splits) if problem.operands_by_tma or not tile.tma else None
    if isinstance(tile, MixedTile):
        return narrowed(problem, tile)
    if isinstance(tile, WarpTile):  # measured for its own layers; others get as large a tile of the usual sort
        tile = GemmTile(128, tile.block_n, 128, num_warps=8, num_stages=4, group=tile.group, tma=True)
    plain = problem.prepared().is_plain
    multiplied = problem.prepared() if plain else problem.unpacked().prepared()
    small = plain or problem.n * problem.k <= LARGEST_UNPACKED
    leaves = problem.out is DType.BF16 or tile.block_t * tile.block_n <= LARGEST_F32
    return tile if small and leaves and multiplied.operands_by_tma else None


def _whole_rows(problem: LinearProblem, tile: GemvTile) -> GemvTile:
    """Pieces of which a row's last one is not mostly empty, as many bytes in flight."""
    while tile.block_k > 512 and -(-problem.k // tile.block_k) * tile.block_k > WASTE * problem.k:
        tile = msgspec.structs.replace(tile, block_k=tile.block_k // 2, ahead=2 * tile.ahead)
    return msgspec.structs.replace(tile, ahead=min(tile.ahead, max(2, -(-problem.k // tile.block_k))))


def narrowed(problem: LinearProblem, tile: MixedTile) -> MixedTile:
    """No more tokens than registers have room for: sums of each part, a product, sums of x for offsets."""
    parts = len(problem.parts)
    kinds = parts + 1 + (parts if problem.weight.offset else 0)
    most = MOST_SUMS * 32 * tile.num_warps // (tile.block_n * kinds)
    return msgspec.structs.replace(tile, block_t=min(tile.block_t, 1 << (most.bit_length() - 1)))


def _blocks(key: str, tile: RingTile | SkinnyTile) -> int:
    """Of the layer of a key; where none shared a tile, no more than that are needed."""
    blocks = -(-LayerKey.parse(key).width // tile.block_n) * tile.splits
    return blocks if tile.splits > 1 else min(blocks, H100_MULTIPROCESSORS)


def _ring(problem: LinearProblem, tile: RingTile, blocks: int) -> RingTile | None:
    """Pieces that end with the row, splits for most of the GPU, and stages for as many blocks of a multiprocessor."""
    if not rings(problem):
        return None
    tiles = -(-problem.width // tile.block_n)
    least = split_block(problem.k) if problem.weight.dtype is DType.I4 else 64
    enough = 2 * splits_for(tiles, blocks, problem.k // least)
    columns = tile.block_k
    while columns > least and (-(-problem.k // columns) < enough or (problem.k % columns and not problem.is_plain)):
        columns //= 2
    if problem.k % columns and not problem.is_plain:
        return None
    spec = RingSpec(problem, msgspec.structs.replace(tile, block_k=columns, splits=1))
    splits = splits_for(tiles, blocks, spec.pieces)
    if spec.registers > MOST_REGISTERS or (tile.block_n > 64 and 2 * tiles * splits < blocks):
        wide = tile.block_n > 64
        less = {"block_n": 64, "num_warps": 4} if wide else {"block_t": tile.block_t // 2}
        return _ring(problem, msgspec.structs.replace(tile, **less), 2 * blocks if wide else blocks)
    asked = 1024 + tile.num_stages * tile.block_k // columns * spec.stage_bytes
    room = next((room for room in ROOMS if asked <= room), ROOMS[-1])
    stages = min((room - 1024) // spec.stage_bytes, max(2, -(-spec.pieces // splits)), 8)
    return msgspec.structs.replace(spec.tile, splits=splits, num_stages=stages) if stages >= 2 else None


def splits_for(tiles: int, blocks: int, pieces: int) -> int:
    """How many blocks share a tile, so that there are about as many blocks as asked for."""
    whole = [s for s in range(1, 9) if s == 1 or (pieces >= 2 * s and -(-pieces // s) * (s - 1) < pieces)]
    return min(whole, key=lambda splits: abs(math.log2(tiles * splits / blocks)))
