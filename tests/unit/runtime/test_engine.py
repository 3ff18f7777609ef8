"""The engine gives each request what it would get alone, whatever else runs, waits, is preempted or aborted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime_fakes import EOS, VOCAB_SIZE, FakeDevice, answer_alone
from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.engine import Engine
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.step_outputs import RequestOutput

MAX_CONTEXT = 40


def make_engine(device: FakeDevice, max_waiting: int = 1024) -> Engine:
    return Engine(device, vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS], max_waiting=max_waiting)


def run(engine: Engine) -> dict[int, tuple[list[int], str]]:
    """Step until done; return tokens and finish reason by request."""
    tokens: dict[int, list[int]] = {}
    finished: dict[int, tuple[list[int], str]] = {}
    while engine.has_work:
        collect(engine.step(), tokens, finished)
        engine.check()
    return finished


def collect(
    outputs: list[RequestOutput], tokens: dict[int, list[int]], finished: dict[int, tuple[list[int], str]]
) -> None:
    for output in outputs:
        tokens.setdefault(output.request_id, []).extend(output.token_ids)
        if output.finish_reason:
            finished[output.request_id] = (tokens[output.request_id], output.finish_reason)


PROMPTS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=MAX_CONTEXT - 1)
PARAMS = st.builds(
    lambda seed, least, more, stop, ignore, penalty, logprobs: SamplingParams(
        seed=seed, min_tokens=least, max_tokens=more and least + more, stop_token_ids=stop, ignore_eos=ignore,
        repetition_penalty=penalty, logprobs=logprobs,
    ),
    st.integers(0, (1 << 64) - 1),
    st.just(0) | st.integers(0, 8),
    st.none() | st.integers(1, 30),
    st.just([]) | st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=6),
    st.booleans(),
    st.sampled_from([1.0, 1.3]),
    st.sampled_from([None, 0, 3]),
)  # fmt: skip
DEVICES = st.builds(
    lambda page_size, num_pages, max_seqs, more: FakeDevice(
        page_size=page_size, num_pages=num_pages, max_seqs=max_seqs, max_tokens=max_seqs + more
    ),
    st.sampled_from([1, 2, 4, 16]),
    st.integers(4, 60),
    st.integers(1, 5),
    st.integers(0, 40),
)


@given(st.lists(st.tuples(PROMPTS, PARAMS), min_size=1, max_size=8), DEVICES)
def test_batched_is_alone_whatever_the_pages_and_the_budget(
    jobs: list[tuple[list[int], SamplingParams]], device: FakeDevice
) -> None:
    engine = make_engine(device)
    jobs = [(p, q) for p, q in jobs if len(p) + q.min_tokens <= engine.max_context and len(p) < engine.max_context]
    ids = [engine.add_request(prompt, params) for prompt, params in jobs]
    finished = run(engine)
    for request_id, (prompt, params) in zip(ids, jobs, strict=True):
        assert finished[request_id] == answer_alone(prompt, params, engine.max_context)


@given(
    st.lists(st.tuples(PROMPTS, PARAMS, st.integers(0, 12), st.none() | st.integers(0, 12)), min_size=1, max_size=8),
    st.integers(10, 24),
)
def test_aborts_and_late_arrivals_disturb_nobody(
    jobs: list[tuple[list[int], SamplingParams, int, int | None]], num_pages: int
) -> None:
    engine = make_engine(FakeDevice(num_pages=num_pages, max_seqs=3, max_tokens=7))
    expected: dict[int, tuple[list[int], str]] = {}
    tokens: dict[int, list[int]] = {}
    finished: dict[int, tuple[list[int], str]] = {}
    aborts: dict[int, list[int]] = {}
    for step in range(26):
        for prompt, params, arrival, lifetime in jobs:
            if arrival == step and len(prompt) + params.min_tokens < engine.max_context:
                request_id = engine.add_request(prompt, params)
                if lifetime is None:
                    expected[request_id] = answer_alone(prompt, params, engine.max_context)
                else:
                    aborts.setdefault(step + lifetime, []).append(request_id)
        for request_id in aborts.get(step, []):
            engine.abort(request_id)
        engine.check()
        collect(engine.step(), tokens, finished)
    while engine.has_work:
        collect(engine.step(), tokens, finished)
        engine.check()
    assert {request_id: finished[request_id] for request_id in expected} == expected


def test_preemption_happens_and_is_invisible() -> None:
    device = FakeDevice(num_pages=8, page_size=4, max_seqs=4, max_tokens=32)
    engine = make_engine(device)
    params = SamplingParams(seed=1, max_tokens=20, ignore_eos=True)
    prompts = [[n] * 4 for n in range(4)]
    ids = [engine.add_request(prompt, params) for prompt in prompts]
    finished = run(engine)
    prefills = sum(int((batch.positions == 0).sum()) for batch in device.batches)
    assert prefills > len(prompts)
    for request_id, prompt in zip(ids, prompts, strict=True):
        assert finished[request_id] == answer_alone(prompt, params, engine.max_context)


def test_random_seeds_differ_between_requests() -> None:
    engine = make_engine(FakeDevice())
    ids = [engine.add_request([1, 2], SamplingParams(max_tokens=10, ignore_eos=True)) for _ in range(2)]
    finished = run(engine)
    assert finished[ids[0]] != finished[ids[1]]


def test_logprobs_are_those_asked_for() -> None:
    engine = make_engine(FakeDevice())
    wanted = [None, 0, 2]
    for logprobs in wanted:
        engine.add_request([5, 6], SamplingParams(seed=3, max_tokens=1, logprobs=logprobs))
    outputs = engine.step() or engine.step()
    none, zero, two = (output.logprobs for output in outputs)
    token = outputs[0].token_ids[0]
    assert none is None
    assert zero is not None
    assert (zero[0].token_id, zero[0].logprob, zero[0].top) == (token, -2.0, ())
    assert two is not None
    assert two[0].top == ((token, 0.0), (token + 1, -1.0))


def test_top_logprobs_are_computed_only_when_asked_for() -> None:
    device = FakeDevice()
    engine = make_engine(device)
    engine.add_request([5, 6], SamplingParams(seed=3, max_tokens=3, logprobs=0))
    run(engine)
    assert not any(batch.top_logprobs for batch in device.batches)


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt is empty"),
        ([1] * 40, {}, r"longer than the context(.|\n)*at most 39 tokens(.|\n)*found: 40 tokens"),
        ([1, 64], {}, r"in the prompt is not valid(.|\n)*0\.\.63(.|\n)*found: 64"),
        ([-1], {}, "in the prompt"),
        ([True], {}, "in the prompt"),
        ([1.0], {}, "in the prompt"),
        ([1], {"stop_token_ids": [64]}, "stop_token_ids"),
        ([1], {"logit_bias": {64: 1.0}}, "logit_bias"),
        ([1] * 30, {"min_tokens": 11, "max_tokens": 20}, r"min_tokens does not fit(.|\n)*at most 10"),
    ],
)
def test_bad_requests_are_refused_by_name(prompt: list[int], params: dict[str, object], message: str) -> None:
    engine = make_engine(FakeDevice())
    with pytest.raises(InvalidRequestError, match=message):
        engine.add_request(prompt, SamplingParams(**params))  # type: ignore[arg-type]
    assert not engine.has_work


def test_the_queue_is_bounded() -> None:
    engine = make_engine(FakeDevice(), max_waiting=2)
    for _ in range(2):
        engine.add_request([1], SamplingParams())
    with pytest.raises(EngineError, match="queue is full"):
        engine.add_request([1], SamplingParams())
    engine.step()
    engine.add_request([1], SamplingParams())


def test_a_small_cache_limits_the_context() -> None:
    engine = make_engine(FakeDevice(num_pages=3, page_size=4))
    assert engine.max_context == 12
    request_id = engine.add_request([1] * 11, SamplingParams(seed=0))
    assert run(engine)[request_id] == answer_alone([1] * 11, SamplingParams(seed=0), 12)


def test_unusable_output_ends_one_request_only() -> None:
    device = FakeDevice()
    engine = make_engine(device)
    device.garbage = {7}
    bad = engine.add_request([1], SamplingParams(seed=7, max_tokens=5))
    good = engine.add_request([1], SamplingParams(seed=8, max_tokens=5))
    finished = run(engine)
    assert finished[bad] == ([], "abort")
    assert finished[good] == answer_alone([1], SamplingParams(seed=8, max_tokens=5), MAX_CONTEXT)


def test_a_failed_step_loses_only_its_own_requests() -> None:
    device = FakeDevice(max_seqs=1)
    engine = make_engine(device)
    params = SamplingParams(seed=1, max_tokens=3)
    lost, kept = engine.add_request([1], params), engine.add_request([2], params)
    device.failure = RuntimeError("bus error")
    engine.step()  # launches it
    with pytest.raises(RuntimeError, match="bus error"):
        engine.step()
    engine.check()
    assert lost not in engine
    assert not engine.in_flight
    device.failure = None
    assert run(engine) == {kept: answer_alone([2], params, MAX_CONTEXT)}


def test_long_prompts_do_not_hold_up_decoding() -> None:
    device = FakeDevice(max_tokens=8)
    engine = make_engine(device)
    params = SamplingParams(seed=1, max_tokens=12, ignore_eos=True)
    first = engine.add_request([1], params)
    engine.step()
    engine.add_request([2] * 30, params)
    engine.step()
    for _ in range(3):
        outputs = engine.step()
        assert [output.request_id for output in outputs] == [first]
        assert len(device.batches[-1].token_ids) == 8
    assert np.diff(device.batches[-1].query_start).tolist() == [1, 7]
