"""From timings to a tuning table."""

from __future__ import annotations

import msgspec

from warploom.codegen.cuda.kernels.tiles import Choice, GemmTile, GemvTile, SkinnyTile, Tile
from warploom.codegen.cuda.selection import Timing, select

GEMV = GemvTile(1, 512, 2, 2)
FEW, MORE = SkinnyTile(64, 16, 128, 4, 4), SkinnyTile(64, 32, 128, 4, 4)
MANY, OTHER = GemmTile(128, 256, 64, 8, 3), GemmTile(128, 128, 64, 8, 3)


def chosen(*times: tuple[int, Tile, float]) -> list[tuple[int | None, Tile]]:
    timings = [Timing("layer", tokens, us, Choice(tokens, tile)) for tokens, tile, us in times]
    return [(choice.up_to, choice.tile) for choice in select(timings).linear["layer"]]


def test_the_fastest_tile_of_each_range_is_chosen() -> None:
    times = [
        (1, GEMV, 10.0),
        (1, FEW, 11.0),
        (16, FEW, 12.0),
        (16, MORE, 13.0),
        (4096, MANY, 90.0),
        (4096, OTHER, 99.0),
    ]
    assert chosen(*times) == [(1, GEMV), (16, FEW), (None, MANY)]


def test_one_kernel_serves_neighbours_where_it_costs_next_to_nothing() -> None:
    times = [(512, OTHER, 50.0), (512, MANY, 50.5), (1024, MANY, 80.0), (1024, OTHER, 99.0), (4096, MANY, 300.0)]
    assert chosen(*times) == [(None, MANY)]
    assert chosen((512, OTHER, 50.0), (512, MANY, 52.0), (4096, MANY, 300.0)) == [(512, OTHER), (None, MANY)]


def test_a_kernel_takes_no_longer_for_fewer_tokens() -> None:
    assert chosen((8, FEW, 12.0), (16, MORE, 12.1), (16, FEW, 12.3)) == [(None, MORE)]
    assert chosen((8, FEW, 11.0), (16, MORE, 12.1), (16, FEW, 12.4)) == [(8, FEW), (None, MORE)]


def test_a_table_can_be_written_and_read() -> None:
    table = select(
        [Timing("layer", 1, 1.0, Choice(1, GEMV, fused_norm=True)), Timing("layer", 64, 2.0, Choice(64, MORE))]
    )
    assert msgspec.json.decode(msgspec.json.encode(table), type=type(table)) == table
