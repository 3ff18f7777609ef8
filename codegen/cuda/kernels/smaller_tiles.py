"""Tiles for kernels that turned out to need more registers or shared memory than an architecture has."""

from __future__ import annotations

import msgspec

from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
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

FEWEST = {GemvTile: 1, RingTile: 8, SkinnyTile: 16, MixedTile: 16, GemmTile: 16}  # tokens of a block


def smaller(problem: LinearProblem, tile: Tile) -> Tile | None:
    """What takes as many tokens of a problem and holds less at a time; None: nothing does."""
    change = msgspec.structs.replace
    if isinstance(tile, SegmentTile):
        return StreamTile(1, ahead=2, blocks=tile.blocks, num_warps=8) if streams(problem) else None
    if isinstance(tile, StreamTile):
        if tile.block_n > 1:
            return change(tile, block_n=tile.block_n // 2)
        return change(tile, ahead=tile.ahead // 2) if tile.ahead > 1 else None
    if isinstance(tile, GemvTile):
        return change(tile, ahead=tile.ahead // 2) if tile.ahead > 1 else None
    if isinstance(tile, WarpTile):
        return GemmTile(128, tile.block_n, 128, num_warps=8, num_stages=3, group=tile.group, tma=True)
    if tile.block_t > FEWEST[type(tile)]:
        return change(tile, block_t=tile.block_t // 2)
    return change(tile, num_stages=tile.num_stages - 1) if tile.num_stages > 2 else None
