"""The real model, compiled for the CPU, against transformers in fp32 with the same dequantized weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.model.oracle import Oracle
from tests.model.teacher import Teacher
from warploom.runtime.artifact import Artifact
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

LOGIT_TOLERANCE = 1e-3  # the issue's bound on |logit - transformers' logit|
AGREEMENT = 1e-4  # between chunkings of one prompt
NEW_TOKENS = 128
PROMPTS = [
    "The capital of France is",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot =",
    "Once upon a time, in a village between two mountains, there lived a clockmaker who had never once been late. " * 3,
    "Überraschung: naïve café, 東京 and the 🌍 emoji; 3.14159 * 2 = ",
    "The history of computing began long before electronics. " * 30,
]

Compile = Callable[[str], Artifact]


@pytest.fixture(scope="module")
def artifact(compiled_smollm2: Compile) -> Artifact:
    """SmolLM2 with f32 weights."""
    return compiled_smollm2("f32")


@pytest.fixture(scope="module")
def teacher(artifact: Artifact) -> Iterator[Teacher]:
    """Our logits at every position of given tokens."""
    with Teacher(artifact) as teacher:
        yield teacher


@pytest.fixture(scope="module")
def llm(artifact: Artifact) -> Iterator[LLM]:
    """Our engine."""
    with LLM(artifact) as llm:
        yield llm


def prompt_ids(llm: LLM) -> list[list[int]]:
    """The prompts as tokens; 5 to 300 of them."""
    ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    assert min(map(len, ids)) == 5
    assert 250 <= max(map(len, ids)) <= 320
    return ids


def test_logits_equal_transformers_at_every_position(teacher: Teacher, llm: LLM, oracle: Oracle) -> None:
    for ids in prompt_ids(llm):
        worst = np.abs(teacher.logits(ids, [len(ids)]) - oracle.logits(ids)).max()
        print(f"{len(ids)} tokens: max |logit difference| {worst:.2e}")
        assert worst <= LOGIT_TOLERANCE


def test_chunked_prefill_whole_prefill_and_decode_agree(teacher: Teacher, llm: LLM) -> None:
    for ids in prompt_ids(llm):
        whole = teacher.logits(ids, [len(ids)])
        decoded = min(len(ids), 80)  # of the longest prompt only the end, which crosses a block of 64 keys
        chunkings = {size: [min(size, len(ids) - start) for start in range(0, len(ids), size)] for size in (7, 64)}
        chunkings[1] = [*([len(ids) - decoded] if decoded < len(ids) else []), *[1] * decoded]
        for size, chunks in chunkings.items():
            worst = np.abs(teacher.logits(ids, chunks) - whole).max()
            print(f"{len(ids)} tokens in chunks of {size}: max |difference| {worst:.2e}")
            assert worst <= AGREEMENT


def test_greedy_continuation_equals_transformers(llm: LLM, oracle: Oracle) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    prompts = prompt_ids(llm)
    for ids, ours in zip(prompts, llm.generate(prompts, params), strict=True):  # each as it would be alone: see below
        oracle.check_greedy(ids, ours.token_ids, tie=LOGIT_TOLERANCE)


@pytest.mark.parametrize("quantization", ["f32", "bf16", "int8"])
def test_batched_requests_give_what_each_gives_alone(compiled_smollm2: Compile, quantization: str) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    drawn = SamplingParams(temperature=0.9, top_p=0.95, seed=7, max_tokens=40, ignore_eos=True)
    with LLM(compiled_smollm2(quantization), max_num_batched_tokens=64) as llm:
        ids = [llm.tokenizer.encode(PROMPTS[4])[: 5 + 31 * i] for i in range(8)]
        each = [params if i % 2 else drawn for i in range(8)]
        together = llm.generate(ids, each)
        for prompt, own, batched in zip(ids, each, together, strict=True):
            (alone,) = llm.generate([prompt], own)
            assert alone.token_ids == batched.token_ids
            assert len(alone.token_ids) == 40


def test_chat_answers_sensibly(compiled_smollm2: Compile) -> None:
    with LLM(compiled_smollm2("bf16")) as llm:
        question = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
        answer = llm.chat(question, SamplingParams(temperature=0.0, max_tokens=40))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
