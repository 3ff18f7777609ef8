"""Mixtures of experts on CUDA: in Triton's interpreter, every way through the kernels is the meaning of the ops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import ARCHITECTURES, CudaTarget
from warploom.codegen.cuda.kernel import Match, TensorMap, Variant
from warploom.codegen.cuda.kernels.expert_linear import lower as lower_product
from warploom.codegen.cuda.kernels.expert_mlp import MlpProblem, lower
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem, Gate
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile, choices_for
from warploom.codegen.cuda.kernels.route_experts import RouteExpertsSpec
from warploom.codegen.cuda.kernels.sort_experts import SortExpertsSpec
from warploom.ir.dims import dim
from warploom.ir.ops.activation import clamped_swiglu, swiglu
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.routing import combine_experts, route_experts
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate

SM_90 = CudaTarget("sm_90")
ROOM = 12  # tokens that buffers have room for
BF16 = DType.BF16.numpy
GPT_OSS = Gate(1.702, 7.0)
GEMV = ExpertGemvTile(4, 32, 2, num_warps=2)
GEMM = ExpertGemmTile(32, 16, 32, num_warps=4, num_stages=2)
TILES = {
    "gemv": ExpertChoice(None, GEMV, GEMV),
    "gemv_whole": ExpertChoice(None, replace(GEMV, block=128, ahead=8), replace(GEMV, block_n=2, block=64)),
    "gemm": ExpertChoice(None, GEMM, GEMM),
    "gemm_tma": ExpertChoice(None, replace(GEMM, tma=True), replace(GEMM, block_n=16, tma=True)),
}


def mixture(experts: int, choices: int, hidden: int, inner: int, out: DType = DType.BF16, **more: bool) -> MlpProblem:
    """A problem without biases, or with."""
    biases = DType.F32 if more.get("biases") else None
    gate = GPT_OSS if more.get("clamped") else Gate()
    first = ExpertProblem(experts, 2 * inner, hidden, choices, True, bias=biases, gate=gate)
    second = ExpertProblem(experts, hidden, inner, choices, False, bias=biases)
    return MlpProblem(first, second, out, more.get("residual", False))


PROBLEMS = {
    "plain": mixture(5, 2, 64, 32),
    "residual": mixture(9, 3, 48, 40, DType.F32, residual=True),
    "ragged": mixture(7, 3, 56, 37, residual=True),
    "gpt_oss": mixture(4, 4, 40, 48, biases=True, clamped=True),
    "one": mixture(1, 1, 32, 16),
}


def make_arrays(problem: MlpProblem) -> dict[str, np.ndarray]:
    """Operands for ROOM tokens; experts repeat, some are met by all tokens, some lie outside."""
    first, second = problem.first, problem.second
    rng = np.random.default_rng(first.k)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(shape[-1])

    experts = np.stack([rng.permutation(first.experts)[: first.choices] for _ in range(ROOM)]).astype(np.int32)
    experts[1:3, 0] = first.experts - 1
    experts[3, :1], experts[4, -1:] = -2, first.experts + 3
    return {
        "x": rng.standard_normal((ROOM, first.k)).astype(BF16),
        "experts": experts,
        "shares": rng.uniform(0, 1, (ROOM, first.choices)).astype(np.float32),
        "first_w": normal(first.experts * first.n, first.k).astype(BF16),
        "second_w": normal(second.experts * second.n, second.k).astype(BF16),
        "first_bias": normal(first.experts, first.n).astype(np.float32),
        "second_bias": normal(second.experts, second.n).astype(np.float32),
        "residual": rng.standard_normal((ROOM, second.n)).astype(problem.out.numpy),
        "out": np.full((ROOM, second.n), np.nan, problem.out.numpy),
    }


def meaning(problem: MlpProblem, arrays: dict[str, np.ndarray], tokens: int) -> np.ndarray:
    """By the ops' own meaning, in f64."""
    first, second = problem.first, problem.second
    x, experts = arrays["x"][:tokens, None].astype(np.float64), arrays["experts"][:tokens]
    inside = np.clip(experts, 0, first.experts - 1)
    both = expert_linear.evaluate(x, experts, arrays["first_w"], n=first.n)
    both += arrays["first_bias"][inside] if first.bias else 0
    gate, up = np.split(both, 2, axis=2)
    if first.gate == GPT_OSS:
        inner = clamped_swiglu.evaluate(gate, up, alpha=1.702, limit=7.0)
    else:
        inner = swiglu.evaluate(gate, up)
    y = expert_linear.evaluate(inner, experts, arrays["second_w"], n=second.n)
    y += arrays["second_bias"][inside] if second.bias else 0
    total = combine_experts.evaluate(y, arrays["shares"][:tokens])
    return total + arrays["residual"][:tokens] if problem.residual else total


def launch(match: Match, variant: Variant, names: list[str], arrays: dict[str, np.ndarray], tokens: int) -> None:
    """The launches of a variant. What no kernel may read is no number."""
    temps = []
    for temp in match.temps:
        fill = 99999 if temp.type.dtype is DType.I32 else np.nan
        temps.append(np.full(temp.type.resolve({"T": ROOM}), fill, temp.type.dtype.numpy))
    for step in variant.steps:
        spec: Any = replace(step.spec, pdl=False)  # type: ignore[type-var]
        operands = []
        for slot, operand in zip(step.operands, spec.operands, strict=True):
            array = temps[slot.index] if slot.side == "temp" else arrays[names[slot.index]]
            if isinstance(operand, TensorMap):
                array = array.reshape([evaluate(extent, {"T": ROOM}) for extent in operand.shape])
            operands.append(array)
        run_kernel(spec, operands, {"T": tokens})


def lowered(problem: MlpProblem, *choices: ExpertChoice) -> tuple[Match, list[str]]:
    """The launches, and the names of the arrays that slots point to."""
    common = ["x", "experts", "shares", "residual", "out"]
    names = [*common, "first_w", "first_bias", "second_w", "second_bias"]
    places = {name: Slot("input", index) for index, name in enumerate(names)}
    slots = {
        part: {name: places[name] for name in common} | {name: places[f"{part}_{name}"] for name in ("w", "bias")}
        for part in ("first", "second")
    }
    return lower(problem, slots, dim("T"), choices, SM_90), names


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    scale = np.sqrt((expected**2).mean())
    error = np.abs(found.astype(np.float64) - expected) / (scale + np.abs(expected))
    assert error.max() < 0.02
    assert error.mean() < 0.004


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_mixtures_are_their_meaning(problem: MlpProblem, tile: ExpertChoice) -> None:
    if tile == TILES["gemm_tma"] and problem.second.k % 8:
        pytest.skip("choices_for gives no such tile")
    match, names = lowered(problem, tile)
    for tokens in (1, 3) if isinstance(tile.first, ExpertGemvTile) else (1, 11):
        arrays = make_arrays(problem)
        arrays["x"][tokens:] = np.nan  # leftovers of a longer step
        launch(match, match.variants[0], names, arrays, tokens)
        assert_near(arrays["out"][:tokens], meaning(problem, arrays, tokens))
        assert np.isnan(arrays["out"][tokens:].astype(np.float32)).all()


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("shared", [True, False])
def test_single_products_are_their_meaning(shared: bool, tile: ExpertChoice) -> None:
    problem = ExpertProblem(6, 40, 56, 3, shared, bias=None if shared else DType.BF16)
    rng = np.random.default_rng(1)
    arrays = {
        "x": rng.standard_normal((ROOM, 1 if shared else 3, 56)).astype(BF16),
        "experts": rng.integers(0, 6, (ROOM, 3)).astype(np.int32),
        "w": (rng.standard_normal((6 * 40, 56)) / 7).astype(BF16),
        "bias": rng.standard_normal((6, 40)).astype(BF16),
        "out": np.full((ROOM, 3, 40), np.nan, BF16),
    }
    slots = {name: Slot("input", index) for index, name in enumerate(arrays)}
    match = lower_product(problem, slots, dim("T"), (tile,), SM_90)
    launch(match, match.variants[0], list(arrays), arrays, 7)
    expected = expert_linear.evaluate(arrays["x"][:7].astype(np.float64), arrays["experts"][:7], arrays["w"], n=40)
    expected += 0 if shared else arrays["bias"][arrays["experts"][:7]]
    assert_near(arrays["out"][:7], expected)


@pytest.mark.parametrize("tile", ["gemm", "gemm_tma"])
def test_a_token_does_not_depend_on_the_others(tile: str) -> None:
    problem = PROBLEMS["residual"]
    match, names = lowered(problem, TILES[tile])
    rows = []
    for tokens in (2, 5, 12):
        arrays = make_arrays(problem)
        launch(match, match.variants[0], names, arrays, tokens)
        rows.append(arrays["out"][:2].tobytes())
    assert len(set(rows)) == 1


@pytest.mark.parametrize(("experts", "choices", "tokens"), [(3, 2, 1), (8, 2, 700), (130, 8, 260), (40, 1, 2500)])
def test_pairs_are_sorted_by_expert(experts: int, choices: int, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    chosen = (rng.integers(-1, experts + 1, (tokens, choices)) // 2 * 2).astype(np.int32)
    spec = SortExpertsSpec(experts, choices, 16, pdl=False)
    most = evaluate(spec.most_blocks, {"T": tokens})
    order = np.full(tokens * choices, -1, np.int32)
    blocks = np.full(1 + 3 * most, -1, np.int32)
    run_kernel(spec, [chosen, order, blocks], {"T": tokens})
    flat = np.clip(chosen, 0, experts - 1).ravel()
    np.testing.assert_array_equal(order, np.argsort(flat, kind="stable"))
    count, table = blocks[0], blocks[1:].reshape(-1, 3)
    assert count <= most
    places: list[int] = []
    for expert, first, end in table[:count]:
        mine = range(first, min(first + 16, end))
        assert len(mine) > 0
        assert (flat[order[mine]] == expert).all()
        assert end == np.sum(flat <= expert)
        places += mine
    assert places == list(range(tokens * choices))


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(("experts", "k"), [(5, 2), (128, 8), (60, 4), (32, 1)])
def test_routing_is_its_meaning(experts: int, k: int, normalized: bool, dtype: DType) -> None:
    logits = np.random.default_rng(k).standard_normal((6, experts)).astype(dtype.numpy)
    logits[0] = logits[0, 0]  # all equal: the first win
    logits[1] *= 60
    shares, chosen = np.full((6, k), np.nan, np.float32), np.full((6, k), -1, np.int32)
    run_kernel(RouteExpertsSpec(experts, k, normalized, dtype, pdl=False), [logits, shares, chosen], {"T": 6})
    expected, wanted = route_experts.evaluate(logits.astype(np.float32), k=k, normalized=int(normalized))
    np.testing.assert_array_equal(chosen, wanted)
    np.testing.assert_allclose(shares, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("deterministic", [True, False])
def test_choices_cover_all_tokens_with_blocks_that_both_products_share(arch: str, deterministic: bool) -> None:
    problem = mixture(128, 8, 2048, 768)
    choices = choices_for(problem.first, problem.second, CudaTarget(arch, deterministic))
    ends = [choice.up_to for choice in choices]
    assert ends[-1] is None
    assert all(end is not None for end in ends[:-1])
    assert ends[:-1] == sorted({end or 0 for end in ends[:-1]})
    for choice in choices:
        assert type(choice.first) is type(choice.second)
        if isinstance(choice.first, ExpertGemmTile):
            assert choice.first.block_t == choice.second.block_t  # type: ignore[union-attr]
            assert not choice.first.tma or CudaTarget(arch).has_tma
        assert not (deterministic and isinstance(choice.first, ExpertGemvTile))
