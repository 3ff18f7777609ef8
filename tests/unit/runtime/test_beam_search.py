"""Beam search: what it finds against an exhaustive search, and beams in the engine beside everything else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.runtime_fakes import EOS, FakeDevice, answer_alone, fake_artifact
from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.beam_engine import BeamEngine
from warploom.runtime.beam_search import BeamSearch, BeamSearchParams, Hypothesis
from warploom.runtime.device import StepOutput
from warploom.runtime.llm import LLM
from warploom.runtime.request import TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_batch import StepBatch
from warploom.runtime.step_outputs import RequestOutput

VOCAB = 24
F32 = NDArray[np.float32]


def logprobs_after(history: Sequence[int], vocab_size: int = VOCAB) -> F32:
    """A language model: a distribution that depends on the last three tokens and the length."""
    logits = np.random.default_rng([len(history), *history[-3:]]).normal(0, 1.5, vocab_size)
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def top_of(logprobs: F32, number: int) -> TokenLogprobs:
    best = np.argsort(-logprobs, kind="stable")[:number].tolist()
    return TokenLogprobs(best[0], float(logprobs[best[0]]), tuple((token, float(logprobs[token])) for token in best))


class LanguageDevice(FakeDevice):
    """A device whose likeliest tokens are those of the language model, after what it reads from its cache."""

    def run(self, batch: StepBatch) -> StepOutput:
        output = super().run(batch)
        if not batch.top_logprobs:
            return output
        rows = [logprobs_after(self._read(batch, int(row)), self.vocab_size) for row in batch.logit_rows]
        tops = np.argsort(-np.array(rows), axis=1, kind="stable")[:, :20].astype(np.int32)
        return output._replace(top_tokens=tops, top_logprobs=np.take_along_axis(np.array(rows), tops, axis=1))


def searched(prompt: list[int], params: BeamSearchParams, ends: frozenset[int], most: int) -> list[Hypothesis]:
    """The search by itself, over the language model."""
    search = BeamSearch(params, ends, most)
    while not search.has_ended:
        histories = [[*prompt, *beam.token_ids] for beam in search.running]
        search.advance([top_of(logprobs_after(one), search.num_top) for one in histories])
    return search.finished


def test_a_wide_search_finds_what_an_exhaustive_one_finds() -> None:
    tokens, most, vocab, end = 3, 3, 4, 0
    params = BeamSearchParams(beam_width=16, max_tokens=most, length_penalty=0.0, early_stopping="never")
    search = BeamSearch(params, frozenset([end]), most)
    while not search.has_ended:
        search.advance([top_of(logprobs_after([7, *one.token_ids], vocab), vocab) for one in search.running])
    found = []
    for length in range(1, tokens + 1):
        for answer in product(range(vocab), repeat=length):
            if end in answer[:-1] or (length < most and answer[-1] != end):
                continue
            total = sum(float(logprobs_after([7, *answer[:i]], vocab)[token]) for i, token in enumerate(answer))
            found.append((total, answer))
    found.sort(reverse=True)
    for (total, answer), one in zip(found[:16], search.finished, strict=True):
        assert one.token_ids == answer
        assert one.total == pytest.approx(total, abs=1e-5)


def test_a_width_of_one_is_greedy_and_scores_are_means() -> None:
    params = BeamSearchParams(beam_width=1, max_tokens=6, ignore_eos=True)
    (found,) = searched([5], params, frozenset(), 6)
    history, total = [5], 0.0
    for _ in range(6):
        row = logprobs_after(history)
        history.append(int(row.argmax()))
        total += float(row.max())
    assert list(found.token_ids) == history[1:]
    assert found.total == pytest.approx(total / 6)


def test_when_a_search_ends() -> None:
    def steps(early_stopping: bool | Literal["never"], penalty: float, end: float, other: float) -> int:
        params = BeamSearchParams(beam_width=2, length_penalty=penalty, early_stopping=early_stopping)
        search, count = BeamSearch(params, frozenset([0]), 30), 0
        while not search.has_ended:
            count += 1
            entry = TokenLogprobs(0, end, ((0, end), (1, other), (2, -3.0)))
            search.advance([entry] * len(search.running))
        return count

    # Sums: -0.6 and -1.1 are finished after two steps, when the best that runs has -1.0, and then -1.5.
    assert [steps(how, 0.0, end=-0.6, other=-0.5) for how in (True, False, "never")] == [2, 3, 3]
    # Means: -1.0 and -1.05 are finished after two steps; -1.1 n / 30 is not above that from n = 29 on.
    assert [steps(how, 1.0, end=-1.0, other=-1.1) for how in (True, False, "never")] == [2, 2, 29]


@pytest.mark.parametrize(
    "wrong",
    [{"beam_width": 0}, {"beam_width": 21}, {"n": 5}, {"n": 0}, {"length_penalty": math.nan}, {"length_penalty": 11},
     {"early_stopping": "now"}, {"max_tokens": 0}, {"logprobs": 21}, {"stop_token_ids": [-1]}],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        BeamSearchParams(**{"beam_width": 4, **wrong})  # type: ignore[arg-type]


def make_engine(device: FakeDevice, speculation: SpeculativeConfig | None = None) -> BeamEngine:
    return BeamEngine(device, vocab_size=VOCAB, max_context=60, eos_token_ids=[EOS], speculation=speculation)


def run(engine: BeamEngine) -> dict[int, list[RequestOutput]]:
    outputs: dict[int, list[RequestOutput]] = {}
    while engine.has_work or engine.in_flight:
        for one in engine.step():
            outputs.setdefault(one.request_id, []).append(one)
        engine.check()
    assert engine.stats().kv_usage == 0
    assert not engine._searches
    assert not engine._answers
    return outputs


@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 9),
                  st.booleans(), st.integers(-1, 1)),
        min_size=1, max_size=4,
    ),
    st.integers(0, 3), st.sampled_from([1, 2, 4]), st.integers(22, 60), st.integers(1, 5),
    st.sampled_from([None, SpeculativeConfig(num_speculative_tokens=2)]),
)  # fmt: skip
def test_beams_beside_others_find_what_they_find_alone(
    jobs: list[tuple[list[int], int, int, bool, int]], num_others: int, page_size: int, num_pages: int, max_seqs: int,
    speculation: SpeculativeConfig | None,
) -> None:  # fmt: skip
    device = LanguageDevice(
        num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_tokens=9, vocab_size=VOCAB
    )  # fmt: skip
    engine = make_engine(device, speculation)
    searches = []
    for prompt, width, most, ignore, priority in jobs:
        params = BeamSearchParams(beam_width=width, max_tokens=most, ignore_eos=ignore, logprobs=1)
        searches.append((prompt, params, engine.new_search(prompt, params, priority=priority)))
        for answer in searches[-1][2]:
            engine.add(answer)
    others = [engine.new_request([5, 6], SamplingParams(seed=seed, max_tokens=9)) for seed in range(num_others)]
    for other in others:
        engine.add(other)
    outputs = run(engine)
    for prompt, params, answers in searches:
        most = min(params.max_tokens or 60, engine.max_context - len(prompt))
        expected = searched(prompt, params, answers[0].end_token_ids, most)
        for answer, found in zip(answers, expected, strict=True):
            (output,) = outputs[answer.id]
            assert (output.token_ids, output.logprobs, answer.score) == (found.token_ids, found.logprobs, found.total)
            assert (output.finish_reason == "stop") == (found.token_ids[-1] in answer.end_token_ids)
    for other in others:
        tokens = [token for one in outputs[other.id] for token in one.token_ids]
        assert tokens == answer_alone([5, 6], other.params, engine.max_context, vocab_size=VOCAB)[0]


def test_beams_compute_only_what_their_last_page_holds() -> None:
    device = LanguageDevice(num_pages=60, page_size=4, max_seqs=4, max_tokens=64, vocab_size=VOCAB)
    engine = make_engine(device)
    for answer in engine.new_search([5] * 33, BeamSearchParams(beam_width=4, max_tokens=8, ignore_eos=True)):
        engine.add(answer)
    run(engine)
    assert len(device.batches) == 8
    assert [len(batch.token_ids) for batch in device.batches] == [33, 8, 12, 16, 4, 8, 12, 16]
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.prefix_queries) == (33, 33)


def test_a_search_goes_on_until_nobody_waits_for_it() -> None:
    engine = make_engine(LanguageDevice(vocab_size=VOCAB))
    first, second = engine.new_search([5], BeamSearchParams(beam_width=2, max_tokens=6, ignore_eos=True))
    for answer in (first, second):
        engine.add(answer)
    engine.step()
    engine.abort(first.id)
    assert first.id not in engine
    assert second.id in engine
    outputs = run(engine)
    assert list(outputs) == [second.id]
    third, fourth = engine.new_search([5], BeamSearchParams(beam_width=2, max_tokens=6, ignore_eos=True))
    for answer in (third, fourth):
        engine.add(answer)
    engine.step()
    for answer in (third, fourth):
        engine.abort(answer.id)
    assert not engine.has_work
    assert run(engine) == {}


def test_a_failed_step_ends_the_searches_that_it_was_for() -> None:
    device = LanguageDevice(vocab_size=VOCAB)
    engine = make_engine(device)
    (answer,) = engine.new_search([5], BeamSearchParams(beam_width=1, max_tokens=6))
    engine.add(answer)
    engine.step()
    device.failure = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        engine.step()
    assert answer.id not in engine
    device.failure = None
    assert run(engine) == {}


def test_too_many_beams_for_the_end_tokens() -> None:
    engine = make_engine(LanguageDevice(vocab_size=VOCAB))
    params = BeamSearchParams(beam_width=19, stop_token_ids=[7])
    with pytest.raises(InvalidRequestError, match="beam_width"):
        engine.new_search([5], params)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fake_artifact(tmp_path_factory.mktemp("beam") / "artifact", max_context=60)


@pytest.fixture
def device(artifact: Artifact) -> LanguageDevice:
    return LanguageDevice(num_pages=100, max_seqs=8, max_tokens=64, vocab_size=artifact.manifest.vocab_size)


def test_the_class_for_users(artifact: Artifact, device: LanguageDevice) -> None:
    params = BeamSearchParams(beam_width=3, n=2, max_tokens=8, logprobs=0)
    with LLM(artifact, device=device) as llm:
        found = llm.beam_search(["Once", "upon"], params)
        assert [[one.index for one in answers] for answers in found] == [[0, 1], [0, 1]]
        for answers in found:
            assert answers[0].score is not None
            for one in answers:
                visible = one.token_ids[:-1] if one.finish_reason == "stop" else one.token_ids
                assert one.text == llm.tokenizer.decode(visible)
                assert one.logprobs is not None
                mean = sum(entry.logprob for entry in one.logprobs) / len(one.token_ids)
                assert one.score == pytest.approx(mean)
            assert answers[0].score > (answers[1].score or 0)
        assert llm.beam_search("Once", params)[0][0].token_ids == found[0][0].token_ids
        with pytest.raises(InvalidRequestError):
            llm.beam_search([[]], params)


def test_on_an_event_loop(artifact: Artifact, device: LanguageDevice) -> None:
    params = BeamSearchParams(beam_width=3, n=2, max_tokens=8)

    async def main() -> list[list[int]]:
        async with AsyncLLM.load(artifact, device=device) as llm:
            pieces = [delta async for delta in llm.generate("Once", params)]
            async with await llm.start("Once", params) as stream:
                assert stream.num_answers == 2  # left unread: it is cancelled
            return [list(delta.token_ids) for delta in sorted(pieces, key=lambda one: one.index)]

    found = asyncio.run(main())
    with LLM(artifact, device=LanguageDevice(vocab_size=artifact.manifest.vocab_size, num_pages=100)) as llm:
        assert [one.token_ids for one in llm.beam_search("Once", params)[0]] == found
