"""Nothing that the engine does to a request changes a bit of its answer: batches, prefix hits, preemption, scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from warploom.runtime.artifact import Artifact
from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.runtime.request import TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams

Compile = Callable[[str], Artifact]
STORY = "Once upon a time, in a village between two mountains, there lived a clockmaker who had never once been late. "
PROMPTS = [STORY * 2, STORY * 2 + "One day", STORY + "The end. " + STORY, "The capital of France is", STORY * 3]
GREEDY = SamplingParams(temperature=0, max_tokens=20, logprobs=2, ignore_eos=True)


@pytest.fixture(scope="module")
def artifact(compiled_smollm2: Compile) -> Artifact:
    """SmolLM2 with f32 weights."""
    return compiled_smollm2("f32")


@pytest.fixture(scope="module")
def alone(artifact: Artifact) -> list[Completion]:
    """Each prompt by itself, on a fresh engine every time: nothing is shared, nothing in the way."""
    return [_alone(artifact, prompt) for prompt in PROMPTS]


def _alone(artifact: Artifact, prompt: str) -> Completion:
    with LLM(artifact, max_num_seqs=1) as llm:
        return llm.generate(prompt, GREEDY)[0]


def gist(completions: list[Completion]) -> list[tuple[list[int], list[TokenLogprobs] | None]]:
    """Tokens and log-probabilities, which are compared to the last bit."""
    return [(one.token_ids, one.logprobs) for one in completions]


def test_batched_and_with_known_prefixes(artifact: Artifact, alone: list[Completion]) -> None:
    with LLM(artifact) as llm:
        assert gist(llm.generate(PROMPTS, GREEDY)) == gist(alone)
        again = llm.generate(PROMPTS, GREEDY)
        assert gist(again) == gist(alone)
        cached = [one.metrics.num_cached_tokens for one in again]
        expected = [(len(one.prompt_token_ids) - 1) // 16 * 16 for one in alone]
        assert cached == expected


def test_preempted(artifact: Artifact, alone: list[Completion]) -> None:
    longest = max(len(one.prompt_token_ids) for one in alone) + 20
    kv_bytes = artifact.target("cpu").kv.bytes_per_page * (-(-longest // 16) + 5)
    with LLM(artifact, max_num_seqs=4, max_num_batched_tokens=64, kv_cache_bytes=kv_bytes) as llm:
        assert gist(llm.generate(PROMPTS, GREEDY)) == gist(alone)
        assert llm.stats().preemptions > 0


def test_prompt_logprobs_are_those_of_generating_the_prompt(artifact: Artifact, alone: list[Completion]) -> None:
    """The model's own greedy answer, given back as a prompt, is scored as it was when it was generated."""
    with LLM(artifact) as llm:
        whole = [one.prompt_token_ids + one.token_ids for one in alone]
        scored = llm.generate(whole, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=2))
    for before, after in zip(alone, scored, strict=True):
        assert after.prompt_logprobs is not None
        assert len(after.prompt_logprobs) == len(after.prompt_token_ids) - 1
        assert after.prompt_logprobs[-20:] == before.logprobs
