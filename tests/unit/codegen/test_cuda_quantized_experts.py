"""Quantized experts on CUDA: in Triton's interpreter, every way through the kernels is the meaning of the ops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.codegen.test_cuda_experts import SM_90, TILES, assert_near, launch, make_arrays, meaning, mixture
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.kernels.expert_mlp import lower
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile, choices_for
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.ir.dims import dim
from warploom.ir.ops.quantized_weight import weight_values
from warploom.ir.types import DType

ARRAYS = ("x", "experts", "shares", "residual", "out")
OWN = ("w", "scale", "offset")
PLAIN = mixture(4, 2, 64, 96, residual=True)
FORMATS = {
    "i8": (Weight(DType.I8, 1), Weight(DType.I8, 1)),
    "f8": (Weight(DType.F8, 1), Weight(DType.F8, 1)),
    "i8_groups": (Weight(DType.I8, 2, DType.F16), Weight(DType.I8, 3, DType.F16, offset=True)),
    "i4": (Weight(DType.I4, 2, DType.F16), Weight(DType.I4, 3, DType.F16)),
    "i4_offsets": (Weight(DType.I4, 1, DType.BF16, offset=True), Weight(DType.I4, 3, DType.F32, offset=True)),
}


def make_weight(problem: ExpertProblem, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The parts of all matrices, and what they stand for."""
    weight, rows = problem.weight, problem.experts * problem.n
    columns = problem.k // 2 if weight.dtype is DType.I4 else problem.k
    q = rng.integers(-128, 128, (rows, columns), np.int8)
    if weight.dtype is DType.F8:
        q = rng.uniform(-128, 128, (rows, columns)).astype(DType.F8.numpy)
    size = problem.k**-0.5 / (4.6 if weight.dtype is DType.I4 else 74)
    scale = (rng.uniform(0.5, 1.5, (rows, weight.groups)) * size).astype(weight.scale.numpy)
    offset = (rng.standard_normal(scale.shape) / 30).astype(weight.scale.numpy) if weight.offset else None
    layout = "row4" if weight.dtype is DType.I4 else "row"
    parts = {"w": q, "scale": scale} | ({} if offset is None else {"offset": offset})
    return parts, weight_values(q, scale, offset, rows, layout)


WAYS = {
    "gemv": TILES["gemv"],
    "gemm": TILES["gemm"],
    "long_steps": ExpertChoice(None, ExpertGemmTile(64, 16, 96, 2, 2), ExpertGemmTile(32, 16, 256, 2, 2)),
    "sums": ExpertChoice(None, ExpertGemmTile(64, 8, 64, 2, 2, sums=True), ExpertGemmTile(32, 8, 96, 2, 2, sums=True)),
}


@pytest.mark.parametrize("tile", WAYS)
@pytest.mark.parametrize("formats", FORMATS.values(), ids=FORMATS)
def test_quantized_mixtures_are_their_meaning(formats: tuple[Weight, Weight], tile: str) -> None:
    first, second = (replace(p, weight=w) for p, w in zip((PLAIN.first, PLAIN.second), formats, strict=True))
    problem, rng = replace(PLAIN, first=first, second=second), np.random.default_rng(3)
    names = [*ARRAYS, *(f"{part}_{name}" for part in ("first", "second") for name in OWN)]
    places = {name: Slot("input", index) for index, name in enumerate(names)}
    slots = {
        part: {name: places[name] for name in ARRAYS} | {name: places[f"{part}_{name}"] for name in OWN}
        for part in ("first", "second")
    }
    match = lower(problem, slots, dim("T"), (WAYS[tile],), SM_90)
    arrays = make_arrays(problem)
    values = dict(arrays)
    for part, of_part in (("first", first), ("second", second)):
        parts, values[f"{part}_w"] = make_weight(of_part, rng)
        arrays |= {f"{part}_{name}": array for name, array in parts.items()}
    tokens = 2 if tile == "gemv" else 9
    launch(match, match.variants[0], names, arrays, tokens)
    assert_near(arrays["out"][:tokens], meaning(problem, values, tokens))


@pytest.mark.parametrize("formats", FORMATS.values(), ids=FORMATS)
def test_tiles_hold_whole_runs(formats: tuple[Weight, Weight]) -> None:
    first = replace(PLAIN.first, weight=formats[0])
    for choice in choices_for(first, first, SM_90):
        if isinstance(choice.first, ExpertGemvTile):
            assert choice.first.block % min(first.run, choice.first.block) == 0
        else:
            assert not choice.first.tma
