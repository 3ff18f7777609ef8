"""What runs instead of a kernel that does not fit holds less every time, and in the end there is nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.linear import fitting_spec, linear_spec
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Weight
from warploom.codegen.cuda.kernels.smaller_tiles import smaller
from warploom.codegen.cuda.kernels.tiles import (
    GemmTile,
    GemvTile,
    MixedTile,
    RingTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
    Tile,
)
from warploom.ir.types import DType

SM_90 = CudaTarget("sm_90")
PLAIN = LinearProblem(4096, 4096)
INT4 = LinearProblem(4096, 4096, weight=Weight(DType.I4, 32, DType.F16))
CASES = {
    "gemv": (PLAIN, GemvTile(2, 1024, ahead=4, num_warps=4)),
    "skinny": (PLAIN, SkinnyTile(64, 64, 128, num_warps=4, num_stages=4, splits=2, ahead=2, tma=True)),
    "ring": (PLAIN, RingTile(64, 64, 256, num_warps=4, num_stages=4)),
    "gemm": (PLAIN, GemmTile(128, 256, 64, num_warps=8, num_stages=3, tma=True)),
    "stream": (INT4, StreamTile(4, ahead=4, blocks=264, num_warps=8)),
    "segment": (INT4, SegmentTile(ahead=8, blocks=132, num_warps=8)),
    "mixed": (INT4, MixedTile(64, 64, num_warps=4, num_stages=3)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_is_excluded_in_turn(case: tuple[LinearProblem, Tile]) -> None:
    problem, tile = case
    target, names = SM_90, []
    while (name := fitting_spec(problem, tile, target).name) not in names:
        names.append(name)
        target = replace(target, excluded=target.excluded | {name})
    assert names[0] == linear_spec(problem, tile, SM_90).name
    assert 2 <= len(names) <= 12


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_tile_has_one_that_holds_less_or_none(case: tuple[LinearProblem, Tile]) -> None:
    problem, tile = case
    seen: list[Tile] = []
    less: Tile | None = tile
    while less is not None:
        assert less not in seen
        seen.append(less)
        less = smaller(problem, less)
