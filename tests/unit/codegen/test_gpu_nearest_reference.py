"""The judge of tests/gpu/run_families.py, without a GPU: near-ties may be taken either way, nothing else may differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.gpu.build_families import read
from tests.gpu.near_ties import input_shift, logits, near_ties, references, routers, run
from tests.gpu.nearest_reference import error_part, nearest_error
from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.test_families import CASES

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


def test_any_choice_of_near_ties_is_right(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    for way in range(2):
        for second in range(2):
            assert 0.8 < error_part(exact[way, second] + noise(2), narrow, exact) < 1.2
            assert 0.8 < error_part(exact[0, 0] + noise(2), exact[way, second] + noise(1), exact) < 1.2


def test_other_differences_are_errors(exact: np.ndarray) -> None:
    narrow = exact[0, 0] + noise(1)
    moved = exact[0, 0] + noise(2)
    moved[8] += 1.0  # as a tie's, at a position that has none
    assert error_part(moved, narrow, exact) > 10
    mixed = np.concatenate([exact[0, 0, :30], exact[1, 0, 30:]])  # one choice for some positions, another for others
    assert error_part(mixed + noise(2), narrow, exact) > 10


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
    ties = {tie.position: tie for tie in near_ties(router, x, 0.1, 0)}
    assert {position: tie.width for position, tie in ties.items()} == pytest.approx(
        {1: 0.05, 2: 0.01}, abs=1.1 * 0.1 / 32
    )  # in steps of a 32nd
    assert torch.nonzero(ties[1].shift).flatten().tolist() == [1, 2]
    assert torch.allclose(logits(router, x + input_shift(router, ties[1].shift)), x + ties[1].shift)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_references_of_a_model(name: str, tmp_path: Path) -> None:
    case: Case = next(case for case in CASES if case.id == name)
    made = make_checkpoint(case, tmp_path)
    model, narrow = (read(case, type(made), tmp_path, dtype) for dtype in (torch.float32, torch.bfloat16))
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
