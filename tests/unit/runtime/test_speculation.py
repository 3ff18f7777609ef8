"""Drafts change no token: any drafts, beside preemption, aborts, shared prefixes, penalties, ends, guides, scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime_fakes import EOS, VOCAB_SIZE, FakeDevice, Oracle, answer_alone
from warploom.errors import InvalidRequestError
from warploom.runtime.draft_pace import DraftPace
from warploom.runtime.engine import Engine
from warploom.runtime.guide import Guide, GuideCompiler
from warploom.runtime.prompt_lookup import continuation
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import MAX_DRAFTS, SpeculativeConfig
from warploom.runtime.step_outputs import RequestOutput

MAX_CONTEXT = 60


def make_engine(device: FakeDevice, oracle: Oracle | None = None, drafts: int = 4, **more: Any) -> Engine:
    config = SpeculativeConfig(num_speculative_tokens=drafts)
    engine = Engine(
        device, vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS], speculation=config, **more
    )
    assert engine._speculator is not None
    if oracle is not None:
        engine._speculator._proposer = oracle
    return engine


def add(engine: Engine, prompt: list[int], params: SamplingParams, **more: Any) -> Request:
    request = engine.new_request(prompt, params, **more)
    engine.add(request)
    return request


def finish(engine: Engine) -> list[RequestOutput]:
    outputs = []
    while engine.has_work or engine.in_flight:
        outputs += engine.step()
        engine.check()
    return outputs


def output(request: Request) -> list[int]:
    return request.token_ids[request.num_prompt_tokens :]


def check_memory(engine: Engine, device: FakeDevice) -> None:
    """A page that can be found holds what it is found by."""
    for page, key in enumerate(engine._kv_cache.pool._keys):
        if key is not None:
            held = device.memory[page * device.page_size : (page + 1) * device.page_size, 0]
            assert held.astype(np.int32).tobytes() == key[1]


JOBS = st.tuples(
    st.sampled_from([[5] * 30, [6] * 13 + [7] * 17]),
    st.integers(1, 30),
    st.lists(st.integers(3, 9), max_size=4),
    st.integers(0, 6),  # steps until the next one comes
    st.sampled_from(["", "other"]),
    st.integers(-1, 1),
    st.fixed_dictionaries(
        {
            "max_tokens": st.integers(1, 20),
            "ignore_eos": st.booleans(),
            "min_tokens": st.integers(0, 1),
            "repetition_penalty": st.sampled_from([1.0, 1.0, 1.5]),
            "logprobs": st.sampled_from([None, 0, 2]),
            "prompt_logprobs": st.sampled_from([None, None, 0]),
            "stop_token_ids": st.sampled_from([(), (), (11, 12, 13)]),
        }
    ),
)


@settings(max_examples=60)
@given(
    st.lists(JOBS, min_size=1, max_size=10),
    st.sampled_from([1, 2, 4]),
    st.integers(20, 60),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, (1 << 16) - 1),
    st.sets(st.integers(0, 9), max_size=3),
)
def test_no_drafts_change_a_token(
    jobs: list[tuple[list[int], int, list[int], int, str, int, dict[str, Any]]],
    page_size: int,
    num_pages: int,
    max_seqs: int,
    drafts: int,
    mistakes: int,
    aborted: set[int],
) -> None:
    device = FakeDevice(
        num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_tokens=9, max_rows=max_seqs + 5
    )
    engine = make_engine(device, Oracle(mistakes), drafts)
    made: list[tuple[Request, list[int], int]] = []
    for seed, (stem, length, tail, wait, salt, priority, more) in enumerate(jobs):
        prompt = stem[:length] + tail
        if len(prompt) < engine.max_context:
            params = SamplingParams(seed=seed, **more)
            made.append((add(engine, prompt, params, cache_salt=salt, priority=priority), prompt, seed))
        for _ in range(wait):
            engine.step()
            engine.check()
        check_memory(engine, device)
        for request, _, number in made:
            if number in aborted and number + 2 < len(made):
                engine.abort(request.id)
    finish(engine)
    check_memory(engine, device)
    for request, prompt, _ in made:
        expected, _ = answer_alone(prompt, request.params, engine.max_context)
        assert output(request) == expected[: len(output(request))]
        assert len(output(request)) == len(expected) or request.is_done
    assert engine.stats().kv_usage == 0


def test_ends_inside_of_accepted_drafts() -> None:
    for seed in range(20):
        params = SamplingParams(seed=seed, max_tokens=9, stop_token_ids=tuple(range(3, 12)))
        device = FakeDevice(max_rows=8)
        engine = make_engine(device, Oracle(0))
        request = add(engine, [5, 6], params)
        outputs = finish(engine)
        expected = answer_alone([5, 6], params, MAX_CONTEXT)
        assert (output(request), outputs[-1].finish_reason) == expected
        assert [token for one in outputs for token in one.token_ids] == expected[0]
        assert [one.finish_reason for one in outputs[:-1]] == [None] * (len(outputs) - 1)


def test_accepted_drafts_save_steps_and_are_counted() -> None:
    device = FakeDevice(max_rows=8)
    engine = make_engine(device, Oracle(0), drafts=4)
    request = add(engine, [5], SamplingParams(seed=3, max_tokens=21, ignore_eos=True))
    finish(engine)
    assert len(device.batches) == 5  # 1 + 5 + 5 + 5 + 5
    stats = engine.stats()
    assert (stats.drafts, stats.draft_tokens, stats.accepted_tokens) == (4, 16, 16)
    assert stats.accepted_by_position == (4, 4, 4, 4)
    assert stats.generation_tokens == 21
    assert (request.pace.num_drafted, request.pace.num_accepted) == (16, 16)


def test_wrong_drafts_are_given_up() -> None:
    device = FakeDevice(max_rows=8)
    engine = make_engine(device, Oracle(0xFFFF))
    request = add(engine, [5], SamplingParams(seed=3, max_tokens=50, ignore_eos=True))
    finish(engine)
    stats = engine.stats()
    assert (stats.drafts, stats.accepted_tokens) == (4, 0)  # three, and one after a rest
    assert stats.draft_tokens == 4 + 3 * 1
    assert output(request) == answer_alone([5], request.params, MAX_CONTEXT)[0]


def test_logprobs_are_those_of_plain_decoding() -> None:
    params = SamplingParams(seed=3, max_tokens=30, ignore_eos=True, logprobs=2)
    plain = Engine(FakeDevice(), vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS])
    add(plain, [5, 6, 7], params)
    drafting = make_engine(FakeDevice(max_rows=8), Oracle(0x1111))
    add(drafting, [5, 6, 7], params)
    expected = [(one.token_ids, one.logprobs, one.finish_reason) for one in finish(plain)]
    assert [(one.token_ids, one.logprobs, one.finish_reason) for one in finish(drafting)] == expected
    assert drafting.stats().accepted_tokens > 10


def test_a_large_batch_gets_no_drafts() -> None:
    for cheap_tokens, drafted in [(7, 0), (8, 1), (12, 2)]:
        device = FakeDevice(max_rows=32, max_tokens=32, cheap_tokens=cheap_tokens)
        engine = make_engine(device, Oracle(0))
        for seed in range(4):
            add(engine, [5], SamplingParams(seed=seed, max_tokens=9, ignore_eos=True))
        engine.step()
        engine.step()
        engine.step()
        assert engine.stats().draft_tokens == 4 * drafted
    config = SpeculativeConfig(disable_by_batch_size=1)
    engine = Engine(FakeDevice(), vocab_size=VOCAB_SIZE, max_context=40, eos_token_ids=[EOS], speculation=config)
    for _ in range(2):
        add(engine, [5] * 9, SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))
    finish(engine)
    assert engine.stats().drafts == 0


def test_without_drafts_the_host_stays_ahead() -> None:
    device = FakeDevice(max_rows=8)
    engine = make_engine(device, Oracle(0, can=False))
    add(engine, [5], SamplingParams(seed=3, max_tokens=30, ignore_eos=True))
    engine.step()
    engine.step()
    assert len(device._tickets) == 1, "a step is in flight"
    assert len(device.batches) == 1


def test_logits_processors_are_asked_for_what_was_sampled() -> None:
    seen: list[list[int]] = []

    def watch(prompt: Sequence[int], so_far: Sequence[int]) -> dict[int, float]:
        seen.append(list(so_far))
        return {}

    engine = make_engine(FakeDevice(max_rows=8), Oracle(0))
    request = add(engine, [5], SamplingParams(seed=3, max_tokens=9, ignore_eos=True, logits_processors=[watch]))
    finish(engine)
    assert seen == [output(request)[:n] for n in range(9)]
    assert engine.stats().drafts == 0


def test_bad_words_do_not_appear_behind_drafts() -> None:
    whole = answer_alone([5], SamplingParams(seed=3, max_tokens=30, ignore_eos=True), MAX_CONTEXT)[0]
    outputs = []
    for drafts in (0, 4):
        device = FakeDevice(max_rows=8)
        engine = make_engine(device, Oracle(0, can=drafts > 0), max(1, drafts))
        params = SamplingParams(seed=3, max_tokens=30, ignore_eos=True, bad_words=["x"])
        request = add(engine, [5], params, bad_words=[whole[10:12], [whole[20]]])
        finish(engine)
        outputs.append(output(request))
        pairs = [output(request)[i : i + 2] for i in range(29)]
        assert whole[10:12] not in pairs
        assert whole[20] not in output(request)
    assert outputs[0] == outputs[1]


def guides() -> GuideCompiler:
    """Letters from 3 on."""
    return GuideCompiler(VOCAB_SIZE, lambda token: bytes([94 + token]) if 3 <= token < 29 else b"", [EOS])


@pytest.mark.parametrize("regex", ["[a-y]{3,9}z", "(abc|abd)*e{2,5}", "[a-c]*d"])
def test_guided_answers_are_those_of_plain_decoding(regex: str) -> None:
    for seed in range(6):
        params = SamplingParams(seed=seed, max_tokens=25, guide=Guide("regex", regex))
        engine = Engine(
            FakeDevice(), vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS], guides=guides()
        )
        plain = add(engine, [5], params)
        expected = [one.finish_reason for one in finish(engine)]
        for drafter in (Told(plain.token_ids, 1 << 16), Told(plain.token_ids, 2), Told(plain.token_ids, 1)):
            engine = make_engine(FakeDevice(max_rows=8), guides=guides())
            assert engine._speculator is not None
            engine._speculator._proposer = drafter
            request = add(engine, [5], params)
            assert [one.finish_reason for one in finish(engine)] == expected
            assert request.token_ids == plain.token_ids
            assert engine.stats().accepted_tokens or len(output(request)) < 3 or drafter.every == 1


def test_what_a_guide_forces_is_drafted() -> None:
    """Without any other drafts, the steps of an answer with one choice are few."""
    device = FakeDevice(max_rows=8)
    engine = make_engine(device, Oracle(0, can=False), guides=guides())
    guide = Guide("regex", "abcdefgh[ij]klmnopq")
    requests = [add(engine, [5], SamplingParams(seed=seed, max_tokens=25, guide=guide)) for seed in range(2)]
    outputs = finish(engine)
    texts = ["".join(chr(94 + token) for token in output(request)[:-1]) for request in requests]
    assert all(re.fullmatch(guide.text, text) for text in texts)
    assert [one.finish_reason for one in outputs if one.finish_reason] == ["stop", "stop"]
    stats = engine.stats()
    assert stats.draft_tokens == stats.accepted_tokens > 2 * 10
    assert stats.steps < 12


class Told:
    """Drafts from an answer that is known, with every n-th token wrong."""

    def __init__(self, tokens: list[int], every: int) -> None:
        self.tokens, self.every = tokens, every

    def can_draft(self, request: Request) -> bool:
        return True

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        ((request, number),) = wanted
        known = len(request.token_ids)
        return [
            [token + (place % self.every == self.every - 1) for place, token in enumerate(self.tokens)][
                known : known + number
            ]
        ]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
def test_drafts_follow_the_longest_match(tokens: list[int], one: int, other: int, wanted: int) -> None:
    shortest, longest = sorted((one, other))
    found = continuation(np.array(tokens, np.int32), longest, shortest, wanted)
    for length in range(longest, shortest - 1, -1):
        starts = [i for i in range(len(tokens) - length) if tokens[i : i + length] == tokens[-length:]]
        if starts and length <= len(tokens):
            followers = [tokens[i + length : i + length + wanted] for i in starts]
            assert found == next((one for one in reversed(followers) if len(one) == wanted), followers[0])
            return
    assert found == []


def test_the_pace_follows_what_is_accepted() -> None:
    pace = DraftPace()
    assert pace.length(10) > MAX_DRAFTS
    pace.verified(5, 2, 13)
    assert pace.length(13) == 3
    pace.verified(3, 3, 17)
    assert pace.length(17) == 6
    pace.verified(6, 0, 18)
    assert pace.length(18) == 1
    tokens = 18
    rests: list[int] = []
    while len(rests) < 7:
        if pace.length(tokens):
            pace.verified(1, 0, tokens)
            if not pace.length(tokens):
                rests.append(0)
        rests[-1:] = [rests[-1] + 1] if rests else []
        tokens += 1
    assert rests[:6] == [16, 32, 64, 128, 256, 256]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "medusa"}, "method"),
        ({"method": "draft_model"}, "model"),
        ({"method": "ngram", "model": "x"}, "model"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens"),
        ({"num_speculative_tokens": MAX_DRAFTS + 1}, "num_speculative_tokens"),
        ({"prompt_lookup_min": 5}, "prompt_lookup_min"),
        ({"prompt_lookup_max": 0}, "prompt_lookup_max"),
        ({"disable_by_batch_size": 0}, "disable_by_batch_size"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        SpeculativeConfig(**options)
    assert SpeculativeConfig.named("ngram", 3) == SpeculativeConfig("ngram", num_speculative_tokens=3)
    assert SpeculativeConfig.named("./small").method == "draft_model"
