"""Beam search finds what transformers' finds: the same answers with the same scores, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.model.oracle import Oracle
from warploom.runtime.artifact import Artifact
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.llm import LLM

TOKENS = 10
PROMPTS = ["The capital of France is", "def fibonacci(n):\n"]


@pytest.fixture(scope="module")
def llm(compiled_smollm2: Callable[[str], Artifact]) -> Iterator[LLM]:
    with LLM(compiled_smollm2("f32")) as llm:
        yield llm


@pytest.mark.parametrize(
    "case",
    [
        {"beam_width": 4},
        {"beam_width": 3, "length_penalty": 0.0, "early_stopping": "never"},
        {"beam_width": 2, "length_penalty": -1.0, "early_stopping": True, "n": 1},
    ],
    ids=str,
)
def test_as_transformers(llm: LLM, oracle: Oracle, case: dict[str, Any]) -> None:
    # Common tokens end answers, too, so that some are found before the longest.
    ends = [llm.tokenizer.encode(text)[-1] for text in ("\n", ".")]
    params = BeamSearchParams(**case, max_tokens=TOKENS, stop_token_ids=ends)
    all_ends = [*llm.artifact.manifest.tokenizer.eos_token_ids, *ends]
    for prompt, found in zip(PROMPTS, llm.beam_search(PROMPTS, params), strict=True):
        tokens = llm.tokenizer.encode(prompt)
        expected = oracle.model.generate(
            torch.tensor([tokens]),
            num_beams=params.beam_width,
            num_return_sequences=params.num_answers,
            max_new_tokens=TOKENS,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            do_sample=False,
            eos_token_id=all_ends,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        texts = [_until(row[len(tokens) :], all_ends) for row in expected.sequences.tolist()]
        assert [one.token_ids for one in found] == texts
        lengths = np.array([len(one) for one in texts]) ** params.length_penalty
        scores = np.array([one.score for one in found])
        np.testing.assert_allclose(scores * lengths, expected.sequences_scores.numpy() * lengths, atol=2e-4)


def _until(tokens: list[int], ends: list[int]) -> list[int]:
    """The tokens up to the first end; transformers pads."""
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens
