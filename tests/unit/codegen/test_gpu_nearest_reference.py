"""The judge of tests/gpu/run_families.py, without a GPU: near-ties may be taken either way, nothing else may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tests.gpu.build_families import EVEN_CASES, judged, random_ids, read
from tests.gpu.lossless_weights import ROUNDINGS, rounded_activations
from tests.gpu.near_ties import NearTie, input_shift, logits, near_ties, references, routers, run, sets, weight_of
from tests.gpu.nearest_reference import FAR, Parts, error_parts, nearest_error
from tests.gpu.run_families import SLACK
from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.test_families import CASES
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import quantize

POSITIONS, WORDS = 40, 16


@pytest.fixture
def exact() -> np.ndarray:
    """[2, 2, positions, vocab]: an early near-tie moves all positions from 20 on, a late one position 7 alone."""
    ways = np.random.default_rng(0).normal(size=(2, 1, POSITIONS, WORDS)).repeat(2, 1)
    ways[1, :, :20] = ways[0, :, :20]
    ways[:, 1, 7] += 1.0
    return ways


def noise(seed: int) -> np.ndarray:
    """A rounding."""
    return np.random.default_rng(seed).normal(size=(POSITIONS, WORDS)) * 0.01


def error_part(actual: np.ndarray, narrow: np.ndarray, exact: np.ndarray) -> float:
    """Of all positions."""
    return error_parts(actual, narrow, exact).all


def test_any_choice_of_near_ties_is_right(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    for way in range(2):
        for choice in range(2):
            assert 0.8 < error_part(exact[way, choice] + noise(2), narrow, exact) < 1.2
            assert 0.8 < error_part(exact[0, 0] + noise(2), exact[way, choice] + noise(1), exact) < 1.2


def test_other_differences_are_errors(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    moved = exact[0, 0] + noise(2)
    moved[8] += 1.0  # as a tie's, at a position that has none
    assert error_part(moved, narrow, exact) > 10
    mixed = np.concatenate([exact[0, 0, :30], exact[1, 0, 30:]])  # one choice for some positions, another for others
    assert error_part(mixed + noise(2), narrow, exact) > 10


def test_one_position_that_is_off_does_not_drown_in_many(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    moved = exact[0, 0] + noise(2)
    moved[8] += 0.06
    found = error_parts(moved, narrow, exact)
    assert found.all < SLACK
    assert found.worst > FAR


def test_far_positions_of_bf16_excuse_nothing(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    narrow[30] += 5.0
    assert error_part(exact[0, 0] + 3 * noise(2), narrow, exact) == pytest.approx(3, rel=0.2)


class Router(nn.Module):
    """Two of four experts by the logits, which are the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = x @ self.weight.T
        weights, experts = scores.topk(2)
        return scores, weights, experts


def test_near_ties_are_where_the_last_chosen_nearly_is_not() -> None:
    x = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 0.95, 1.0, 0.0], [1.0, 1.01, 5.0, 0.0], [2.0, 2.01, 0.0, -1.0]])
    router = Router()
    ties = {tie.position: tie for tie in near_ties(router, (x,), 0.1, 0)}
    assert {position: tie.width for position, tie in ties.items()} == pytest.approx(
        {1: 0.05, 2: 0.01}, abs=1.1 * 0.1 / 32
    )  # in steps of a 32nd
    assert torch.nonzero(ties[1].shift).flatten().tolist() == [1, 2]
    assert ties[1].experts == (0, 1)
    assert torch.allclose(logits(router, (x + input_shift(router, ties[1].shift),)), x + ties[1].shift)


def test_three_experts_that_are_near_are_two_ties_of_which_a_set_has_one() -> None:
    ties = list(near_ties(Router(), (torch.tensor([[3.0, 2.0, 1.97, 1.95], [0.0, 1.0, 1.01, 5.0]]),), 0.1, 0))
    assert [(tie.position, tie.experts) for tie in ties] == [(1, (1, 3)), (0, (0, 2)), (0, (0, 3))]
    assert [len(way) for way in sets(ties)] == [0, 1, 1, 1, 2, 2]


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.id == name)


def read_both(case: Case, folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A checkpoint in f32 and in bf16."""
    made = make_checkpoint(case, folder)
    model, narrow = (read(case, type(made), folder, dtype) for dtype in (torch.float32, torch.bfloat16))
    return model, narrow


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_references_of_a_model(name: str, tmp_path: Path) -> None:
    model, narrow = read_both(case_of(name), tmp_path)
    ids = np.random.default_rng(0).integers(3, VOCAB, 48).tolist()
    exact, bf16 = references(model, narrow, ids)
    plain, _ = run(model, ids)
    assert np.array_equal(exact[0, 0], plain)
    assert len(exact) > 1 or len(routers(model)) == 1
    for way in exact[1:]:
        assert np.abs(way[0] - plain).max() > np.abs(nearest_error(bf16, exact)).max() / 10  # it is another way
    changed = (exact[0, 0] != exact[0, 1]).any(-1)
    assert changed.any()
    assert not changed.all()
    for start in (0, 24):  # each reference is its own nearest
        assert not nearest_error(exact[-1, 1, start:], exact[:, :, start:]).any()


def is_right(parts: Parts) -> bool:
    """As on a GPU."""
    return parts.all <= SLACK and parts.worst <= FAR


@pytest.fixture(scope="module")
def qwen2_moe(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Biases, rotations, two routers with more near-ties than most."""
    model, narrow = read_both(case_of("qwen2_moe"), tmp_path_factory.mktemp("qwen2_moe"))
    return Judged(narrow, *judged(model, narrow, partial(random_ids, length=64)))


@dataclass(frozen=True)
class Judged:
    """A model in bf16, which stands for a GPU, and its references."""

    narrow: PreTrainedModel
    ids: list[int]
    exact: np.ndarray
    bf16: np.ndarray

    def parts(self, ties: Sequence[NearTie] = ()) -> Parts:
        """Of the model as it is now."""
        return error_parts(run(self.narrow, self.ids, ties)[0], self.bf16, self.exact)


def test_bf16_itself_is_right(qwen2_moe: Judged) -> None:
    assert qwen2_moe.parts() == pytest.approx((1.0, 2.0), abs=1.0)
    assert is_right(qwen2_moe.parts())


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("position", [3, 30, 63])
def test_a_wrong_expert_is_an_error(qwen2_moe: Judged, layer: int, position: int) -> None:
    """The least likely one, at one position."""
    _, inputs = run(qwen2_moe.narrow, qwen2_moe.ids)
    router = routers(qwen2_moe.narrow)[layer]
    scores = logits(router, inputs[layer])[position]
    shift = torch.zeros(len(weight_of(router)))
    shift[scores.argmin()] = 2 * (scores.max() - scores.min())
    wrong = NearTie(layer, position, 0.0, shift, ())
    assert not is_right(qwen2_moe.parts([wrong]))


def test_a_missing_bias_is_an_error(qwen2_moe: Judged) -> None:
    bias = qwen2_moe.narrow.model.layers[1].self_attn.k_proj.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[len(bias) // 2 :].zero_()  # of all heads adding to every key alike would change nothing
        assert not is_right(qwen2_moe.parts())
        bias.copy_(kept)


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_rotation_that_is_slightly_off_is_an_error(qwen2_moe: Judged, factor: float) -> None:
    rotary = qwen2_moe.narrow.model.rotary_emb
    rotary.inv_freq *= factor
    assert not is_right(qwen2_moe.parts())
    rotary.inv_freq /= factor


@pytest.mark.parametrize("scheme", sorted(set(ROUNDINGS) - {"bf16"}))
@pytest.mark.parametrize("name", ["model.layers.0.mlp.experts.down_proj", "lm_head.weight"])
def test_weights_are_stored_without_loss(scheme: str, name: str) -> None:
    assert any(scheme in schemes for _, schemes in EVEN_CASES)
    weight = torch.randn(3, 64, 64, generator=torch.manual_seed(0)).to(torch.bfloat16).float().numpy()
    weight[0, 0], weight[0, :, 0] = 0, 0
    kept = ROUNDINGS[scheme](name, weight)
    assert np.median(np.abs(kept - weight)) < 0.2  # the extremes may double
    assert np.array_equal(kept, torch.from_numpy(kept).to(torch.bfloat16).float().numpy())
    assert np.array_equal(ROUNDINGS[scheme](name, kept), kept)
    if scheme in ("int8", "int4", "fp8"):
        dtype = {"int8": "i8", "int4": "i4", "fp8": "i8" if name == "lm_head.weight" else "f8e4m3"}[scheme]
        group, scale_dtype = (32, "f16") if dtype == "i4" else (0, "f32")
        stored = quantize.evaluate(kept, dtype=dtype, group=group, scale_dtype=scale_dtype)
        assert np.array_equal(dequantize.evaluate(*stored), kept)


def test_activations_of_fp8() -> None:
    """Rounded where weights are FP8, and a row of zeros stays one."""
    linear = nn.Linear(4, 4, bias=False)
    model = nn.ModuleDict({"first": linear, "lm_head": nn.Linear(4, 4, bias=False)})
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.33, 0.0, 0.0]])
    with rounded_activations(model, "fp8"):
        rounded, kept = model["first"](x), model["lm_head"](x)
    assert not rounded[0].any()
    assert torch.allclose(rounded[1], torch.tensor([1.0, 0.32142857, 0.0, 0.0]) @ linear.weight.T)
    assert torch.equal(kept, model["lm_head"](x))
    assert torch.equal(linear(x), x @ linear.weight.T)
