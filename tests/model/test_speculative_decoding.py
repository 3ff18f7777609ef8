"""Drafts change no bit of what a real model answers, save steps where it repeats something, leave chances alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.model.test_serving_is_exact import PROMPTS, STORY, gist
from tests.model.test_serving_soak import CONFIG
from warploom.compiler import compile
from warploom.errors import ArtifactError
from warploom.runtime.artifact import Artifact
from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig

Compile = Callable[[str], Artifact]
REPEAT = f"{STORY}\n\nThe same again, word by word:\n\n{STORY[:40]}"
DRAWS = int(os.environ.get("WARPLOOM_EXAMPLES", "60")) * 20
NGRAM = SpeculativeConfig(num_speculative_tokens=4)


def params(**more: Any) -> SamplingParams:
    return SamplingParams(**{"seed": 5, "max_tokens": 16, "logprobs": 2, "ignore_eos": True, **more})


KINDS = [
    params(temperature=0, max_tokens=24),
    params(temperature=0.7),
    params(temperature=0, repetition_penalty=1.1, presence_penalty=0.3),
    params(temperature=0, bad_words=["clock", " never once"]),
    params(temperature=1.0, top_p=0.8, min_tokens=4, ignore_eos=False),
    params(temperature=0, stop=["between"], prompt_logprobs=0),
]


@pytest.fixture(scope="module")
def artifact(compiled_smollm2: Compile) -> Artifact:
    """SmolLM2 with f32 weights."""
    return compiled_smollm2("f32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small Llama with random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return compile(folder, out=folder / "artifact", dummy_weights=True)


@pytest.fixture(scope="module")
def jobs(artifact: Artifact) -> list[tuple[str, SamplingParams]]:
    return [(REPEAT, one) for one in KINDS] + [(prompt, KINDS[1]) for prompt in PROMPTS[2:4]]


@pytest.fixture(scope="module")
def plain(artifact: Artifact, jobs: list[tuple[str, SamplingParams]]) -> list[Completion]:
    return answers(artifact, jobs)[0]


def answers(
    artifact: Artifact, jobs: list[tuple[str, SamplingParams]], **options: Any
) -> tuple[list[Completion], int, int]:
    """Completions, steps, and accepted drafts."""
    with LLM(artifact, device="cpu", **options) as llm:
        made = llm.generate([prompt for prompt, _ in jobs], [one for _, one in jobs])
        stats = llm.stats()
        assert stats.kv_usage == 0
        llm._engine.check()
        assert stats.accepted_tokens == sum(one.metrics.num_accepted_tokens for one in made)
        return made, stats.steps, stats.accepted_tokens


def same(one: Sequence[Completion], other: Sequence[Completion]) -> bool:
    ends = [[(a.text, a.finish_reason, a.stop_reason, a.prompt_logprobs) for a in some] for some in (one, other)]
    return gist(list(one)) == gist(list(other)) and ends[0] == ends[1]


def test_ngrams_change_no_bit(
    artifact: Artifact, jobs: list[tuple[str, SamplingParams]], plain: list[Completion]
) -> None:
    found, _, accepted = answers(artifact, jobs, speculation=NGRAM)
    assert same(found, plain)
    assert accepted > 20


def test_nor_where_pages_are_few(
    artifact: Artifact, jobs: list[tuple[str, SamplingParams]], plain: list[Completion]
) -> None:
    longest = max(len(one.prompt_token_ids) + len(one.token_ids) for one in plain)
    kv_bytes = artifact.target("cpu").kv.bytes_per_page * (-(-longest // 16) + 4)
    options = {"max_num_seqs": 3, "max_num_batched_tokens": 64, "kv_cache_bytes": kv_bytes}
    assert same(answers(artifact, jobs, speculation=NGRAM, **options)[0], plain)


def test_a_model_that_drafts_for_itself_is_always_right(artifact: Artifact, plain: list[Completion]) -> None:
    """Noise, penalties and bans are those of the tokens to come, whatever the temperature."""
    itself = SpeculativeConfig(model=artifact.path, num_speculative_tokens=3)
    for number in (0, 1, 2):
        (found,), steps, accepted = answers(artifact, [(REPEAT, KINDS[number])], speculation=itself)
        assert same([found], [plain[number]])
        assert accepted == found.metrics.num_draft_tokens
        assert steps <= 1 + -(-(len(found.token_ids) - 1) // 4)


def test_a_smaller_model_drafts(artifact: Artifact, compiled_smollm2: Compile, plain: list[Completion]) -> None:
    smaller = SpeculativeConfig(model=compiled_smollm2("bf16").path, num_speculative_tokens=3)
    found, _, accepted = answers(artifact, [(REPEAT, one) for one in KINDS[:2]], speculation=smaller)
    assert same(found, plain[:2])
    assert accepted > 0.7 * sum(one.metrics.num_draft_tokens for one in found)


def test_a_draft_model_of_another_vocabulary_is_refused(artifact: Artifact, tiny: Artifact) -> None:
    with pytest.raises(ArtifactError, match="another vocabulary"):
        LLM(artifact, device="cpu", speculation=SpeculativeConfig(model=tiny.path))


class Likeliest:
    """Drafts one token, whatever comes before: a bias, if drafts could have one."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)

    def can_draft(self, request: Request) -> bool:
        return True

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        return [self.tokens[:number] for _, number in wanted]


def exact(llm: LLM, prompt: list[int], choices: int, length: int) -> dict[tuple[int, ...], float]:
    """The probability of each answer of `length` tokens under top-k sampling."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        one = SamplingParams(temperature=0, max_tokens=1, logprobs=choices, ignore_eos=True)
        tops = llm.generate([[*prompt, *known] for known in found], one)
        longer: dict[tuple[int, ...], float] = {}
        for (known, probability), answer in zip(found.items(), tops, strict=True):
            assert answer.logprobs is not None
            weights = np.exp([logprob for _, logprob in answer.logprobs[0].top])
            for (token, _), weight in zip(answer.logprobs[0].top, weights / weights.sum(), strict=True):
                longer[(*known, token)] = probability * float(weight)
        found = longer
    return found


def test_sampled_answers_have_the_models_distribution(tiny: Artifact) -> None:
    """Chi-square of the first three tokens, 27 answers, against the exact probabilities; drafts are always the same."""
    with LLM(tiny, device="cpu", threads=1, max_num_seqs=5, speculation=NGRAM) as llm:
        prompt = [5, 6, 7]
        expected = exact(llm, prompt, 3, 3)
        best = max(expected, key=lambda answer: expected[answer])
        assert llm._engine._speculator is not None
        llm._engine._speculator._proposer = Likeliest(best[1:])
        drawn = llm.generate([prompt] * DRAWS, SamplingParams(top_k=3, max_tokens=4, ignore_eos=True))
        stats = llm.stats()
    counts = Counter(tuple(one.token_ids[:3]) for one in drawn)
    assert counts.keys() <= expected.keys()
    terms = [(counts[answer] - DRAWS * p) ** 2 / (DRAWS * p) for answer, p in expected.items()]
    assert sum(terms) < 54.05, "less than one in a thousand is above, of 26 degrees of freedom"
    rejected = stats.draft_tokens - stats.accepted_tokens
    assert min(stats.accepted_tokens, rejected) > 200, "answers hang on drafts, both right and wrong ones"
    assert len(set(product(*[{answer[i] for answer in expected} for i in range(3)]))) >= 27
