"""MXFP4 experts on CUDA: in Triton's interpreter, every way through the kernels is the meaning of the ops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.codegen.test_cuda_experts import (
    SM_90,
    TILES,
    assert_near,
    launch,
    make_arrays,
    meaning,
)
from tests.unit.codegen.test_cuda_experts import mixture as plain
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.kernel import Match
from warploom.codegen.cuda.kernels.expert_mlp import MlpProblem, lower
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.ir.dims import dim
from warploom.ir.ops.mxfp4 import GROUP, mxfp4_values
from warploom.ir.types import DType


def mxfp4(k: int) -> Weight:
    return Weight(DType.I4, k // GROUP, DType.I8)


def mixture(experts: int, choices: int, hidden: int, inner: int) -> MlpProblem:
    """As gpt-oss has it."""
    problem = plain(experts, choices, hidden, inner, residual=True, biases=True, clamped=True)
    first, second = replace(problem.first, weight=mxfp4(hidden)), replace(problem.second, weight=mxfp4(inner))
    return replace(problem, first=first, second=second)


def ways(problem: MlpProblem, choice: ExpertChoice) -> tuple[Match, list[str]]:
    """The launches, and the names of the arrays that slots point to."""
    common = ["x", "experts", "shares", "residual", "out"]
    own = ("w", "scale", "bias")
    names = [*common, *(f"{part}_{name}" for part in ("first", "second") for name in own)]
    places = {name: Slot("input", index) for index, name in enumerate(names)}
    slots = {
        part: {name: places[name] for name in common} | {name: places[f"{part}_{name}"] for name in own}
        for part in ("first", "second")
    }
    return lower(problem, slots, dim("T"), (choice,), SM_90), names


# Blocks of packed numbers of 64, 32 and 128 columns; the last pieces of rows are whole, or not.
WAYS = [
    (mixture(4, 2, 64, 96), "gemv"),
    (mixture(3, 2, 96, 128), "gemv_whole"),
    (mixture(3, 1, 192, 64), "gemv"),
    (mixture(4, 2, 64, 96), "gemm"),
    (mixture(4, 2, 192, 96), "long_steps"),
]
LONG_STEPS = ExpertChoice(None, ExpertGemmTile(64, 8, 192, 2, 2), ExpertGemmTile(32, 8, 256, 2, 2))


@pytest.mark.parametrize(("problem", "tile"), WAYS)
def test_mixtures_are_their_meaning(problem: MlpProblem, tile: str) -> None:
    choice = LONG_STEPS if tile == "long_steps" else TILES[tile]
    arrays = make_arrays(problem)
    rng = np.random.default_rng(0)
    for part, product in (("first", problem.first), ("second", problem.second)):
        rows = product.experts * product.n
        q = rng.integers(-128, 128, (rows, product.k // 2), np.int8)
        scale = rng.integers(121, 125, (rows, product.k // GROUP), np.int8)
        arrays |= {f"{part}_w": q, f"{part}_scale": scale}
    match, names = ways(problem, choice)
    tokens = 2 if isinstance(choice.first, ExpertGemvTile) else 5
    launch(match, match.variants[0], names, arrays, tokens)
    values = {f"{part}_w": mxfp4_values(arrays[f"{part}_w"], arrays[f"{part}_scale"]) for part in ("first", "second")}
    assert_near(arrays["out"][:tokens], meaning(problem, arrays | values, tokens))
    assert np.isnan(arrays["out"][tokens:].astype(np.float32)).all()
