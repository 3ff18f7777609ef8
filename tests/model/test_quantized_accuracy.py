"""What schemes cost on a real model and a real text: how far logits move, as `bench/accuracy.py` finds at length.

The measure is the Kullback-Leibler divergence from bf16, over the mean surprise of bf16 at the same text: what a scheme
costs on text that the model is right about, with a tenth of the noise of the difference in surprise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.model.teacher import Teacher
from warploom.frontend.checkpoint import open_checkpoint
from warploom.runtime.artifact import Artifact

WINDOWS, WINDOW = 2, 256
CHUNKS = [128, 128]
# Twice what was found (int8 0.25 %, fp8 0.74 %): a scheme that loses its scales or its rounding costs far more.
LIMITS = {"int8": 0.005, "fp8": 0.015}


def log_probabilities(artifact: Artifact, windows: list[list[int]]) -> np.ndarray:
    """[windows, WINDOW, vocab]."""
    with Teacher(artifact) as teacher:
        logits = np.stack([teacher.logits(window, CHUNKS) for window in windows]).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


@pytest.fixture(scope="module")
def windows(smollm2_gguf: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(open_checkpoint(smollm2_gguf).tokenizer.tokenizer_json)
    text = (Path(__file__).parents[2] / "README.md").read_text()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(WINDOWS)]


def test_schemes_cost_what_is_documented(windows: list[list[int]], compiled_smollm2: Callable[[str], Artifact]) -> None:
    base = log_probabilities(compiled_smollm2("bf16"), windows)
    targets = np.array(windows)[:, 1:, None]
    surprise = -np.take_along_axis(base[:, :-1], targets, -1).mean()
    costs = {}
    for scheme in LIMITS:
        moved = log_probabilities(compiled_smollm2(scheme), windows)
        costs[scheme] = float((np.exp(base) * (base - moved)).sum(-1).mean() / surprise)
    print({scheme: f"{cost:.3%}" for scheme, cost in costs.items()}, f"of {surprise:.2f} nats")
    assert all(0 < costs[scheme] <= limit for scheme, limit in LIMITS.items()), costs
