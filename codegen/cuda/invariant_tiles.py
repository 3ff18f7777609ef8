"""Tiles that sum every row in one order, whatever the number of tokens: those of deterministic artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.default_tiles import skinny_tile
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import Choice, GemmTile, GemvTile, RingTile, SkinnyTile, Tile

NARROWEST = 32  # columns at once


def invariant(problem: LinearProblem, choices: Iterable[Choice], target: CudaTarget) -> Iterator[Choice]:
    """Kernels that sum all columns in order, of numbers that were rounded once: the same bits in every tile.

    Those are `skinny`, if no blocks share a row's columns, and `gemm`, but not `ring`, as `tests/gpu/run_linear.py`
    found, which compares the bits of its layers called `invariant`. And all with several pieces of columns: of a single
    one Triton makes a product that begins with what is added to it, a residual or a bias.
    """
    for choice in choices:
        tile = choice.tile
        if isinstance(tile, RingTile):
            tile = skinny_tile(problem, tile.block_t, target)
        if isinstance(tile, SkinnyTile):
            tile = msgspec.structs.replace(tile, splits=1)
        if not isinstance(tile, GemvTile):
            yield Choice(choice.up_to, _in_pieces(tile, problem.k))


def _in_pieces(tile: Tile, k: int) -> Tile:
    """With fewer columns at once than there are, but not below 32."""
    while isinstance(tile, SkinnyTile | GemmTile) and tile.block_k >= k and tile.block_k > NARROWEST:
        tile = msgspec.structs.replace(tile, block_k=tile.block_k // 2)
        if isinstance(tile, SkinnyTile):
            tile = msgspec.structs.replace(tile, ahead=2 * tile.ahead)
    return tile
