"""What requests share and what they ask for beside tokens: prefixes, priorities, prompts' log-probabilities, bans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.runtime_fakes import EOS, VOCAB_SIZE, FakeDevice, answer_alone
from warploom.errors import InvalidRequestError
from warploom.runtime.engine import Engine
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams, one_each
from warploom.runtime.step_batch import StepBatch

MAX_CONTEXT = 60


def make_engine(device: FakeDevice) -> Engine:
    return Engine(device, vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS])


def add(engine: Engine, prompt: list[int], params: SamplingParams, **more: Any) -> Request:
    request = engine.new_request(prompt, params, **more)
    engine.add(request)
    return request


def finish(engine: Engine) -> None:
    while engine.has_work or engine.in_flight:
        engine.step()
        engine.check()


def output(request: Request) -> list[int]:
    return request.token_ids[request.num_prompt_tokens :]


def seeded(seed: int, **more: Any) -> SamplingParams:
    return SamplingParams(**{"seed": seed, "max_tokens": 8, "ignore_eos": True, **more})


STEMS = [[5] * 30, [6] * 13 + [7] * 17]


@given(
    st.lists(st.tuples(st.sampled_from(STEMS), st.integers(1, 30), st.lists(st.integers(3, 9), max_size=4),
                       st.integers(0, 6), st.sampled_from(["", "other"]), st.integers(-1, 1)), min_size=1, max_size=12),
    st.sampled_from([1, 2, 4]),
    st.integers(20, 60),
    st.integers(1, 4),
)  # fmt: skip
def test_shared_prefixes_change_no_token(
    jobs: list[tuple[list[int], int, list[int], int, str, int]], page_size: int, num_pages: int, max_seqs: int
) -> None:
    engine = make_engine(FakeDevice(num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_tokens=9))
    made: list[tuple[Request, list[int]]] = []
    for seed, (stem, length, tail, wait, salt, priority) in enumerate(jobs):
        prompt = stem[:length] + tail
        if len(prompt) < engine.max_context:
            made.append((add(engine, prompt, seeded(seed), cache_salt=salt, priority=priority), prompt))
        for _ in range(wait):
            engine.step()
            engine.check()
    finish(engine)
    for request, prompt in made:
        assert request.params.seed is not None
        assert output(request) == answer_alone(prompt, request.params, engine.max_context)[0]
    assert engine.stats().kv_usage == 0


def test_a_prefix_is_found_page_by_page_and_within_one_salt() -> None:
    engine = make_engine(FakeDevice(page_size=4, num_pages=60))
    first = add(engine, list(range(3, 20)), seeded(1))
    finish(engine)
    assert first.num_cached_tokens == 0
    again = add(engine, list(range(3, 20)), seeded(2))
    shorter = add(engine, [*range(3, 16), 1, 1, 1], seeded(3))
    foreign = add(engine, list(range(3, 20)), seeded(4), cache_salt="other")
    finish(engine)
    assert (again.num_cached_tokens, shorter.num_cached_tokens, foreign.num_cached_tokens) == (16, 12, 0)
    longer = add(engine, first.token_ids[:], seeded(5))  # a second turn: the answer is known, too
    finish(engine)
    assert longer.num_cached_tokens == 24
    stats = engine.stats()
    assert (stats.prefix_hits, stats.prefix_queries) == (16 + 12 + 24, 17 + 17 + 16 + 17 + 25)


def test_the_last_token_is_always_computed() -> None:
    engine = make_engine(FakeDevice(page_size=4))
    for _ in range(2):
        request = add(engine, [5] * 8, seeded(1))
        finish(engine)
    assert request.num_cached_tokens == 4


def test_n_answers_compute_the_prompt_once() -> None:
    device = FakeDevice(page_size=4, max_tokens=8)
    engine = make_engine(device)
    prompt = list(range(3, 24))
    leader: Request | None = None
    requests = []
    for params in one_each(seeded(7, n=4)):
        requests.append(add(engine, prompt, params, leader=leader))
        leader = leader or requests[0]
    finish(engine)
    assert [request.num_cached_tokens for request in requests] == [0, 20, 20, 20]
    computed = sum(len(batch.token_ids) for batch in device.batches)
    assert computed == 21 + 3 * 1 + 4 * 7
    for index, request in enumerate(requests):
        assert output(request) == answer_alone(prompt, seeded(7 + index), MAX_CONTEXT)[0]


def test_followers_go_on_without_their_leader() -> None:
    engine = make_engine(FakeDevice(page_size=4, max_tokens=4))
    first = add(engine, [5] * 20, seeded(1))
    follower = add(engine, [5] * 20, seeded(2), leader=first)
    engine.step()
    engine.abort(first.id)
    finish(engine)
    assert output(follower) == answer_alone([5] * 20, seeded(2), MAX_CONTEXT)[0]


def test_the_important_go_first_and_take_pages_from_others() -> None:
    engine = make_engine(FakeDevice(num_pages=8, page_size=4, max_seqs=2))
    slow = [add(engine, [3, 4], seeded(seed, max_tokens=20), priority=5) for seed in range(2)]
    for _ in range(6):
        engine.step()
    urgent = add(engine, [9] * 10, seeded(9, max_tokens=4), priority=1)
    later = add(engine, [9] * 3, seeded(8, max_tokens=1), priority=2)
    ended: list[int] = []
    while engine.has_work:
        ended += [one.request_id for one in engine.step() if one.finish_reason]
        engine.check()
    assert set(ended[:2]) == {urgent.id, later.id}
    assert ended[2:] == [slow[0].id, slow[1].id]
    assert slow[1].num_preemptions >= 1
    assert engine.stats().preemptions >= 1
    for seed, request in enumerate(slow):
        assert output(request) == answer_alone([3, 4], seeded(seed, max_tokens=20), MAX_CONTEXT)[0]


@pytest.mark.parametrize("max_rows", [4, 6, 64])
@pytest.mark.parametrize("wanted", [0, 2])
def test_prompt_logprobs_cover_the_prompt_in_order(max_rows: int, wanted: int) -> None:
    device = FakeDevice(num_pages=60, max_tokens=8, max_rows=max_rows)
    engine = make_engine(device)
    prompt = list(range(3, 26))
    neighbours = [add(engine, [4] * 6, seeded(seed, repetition_penalty=1.3)) for seed in range(2)]
    add(engine, prompt, seeded(3))
    finish(engine)  # its prefix is known now, but its logits are not
    request = add(engine, prompt, seeded(4, prompt_logprobs=wanted))
    neighbours += [add(engine, [4] * 6, seeded(seed, logit_bias={5: 1.0, 6: 2.0})) for seed in range(2, 4)]
    finish(engine)
    found = request.prompt_logprobs
    assert [entry.token_id for entry in found] == prompt[1:]
    assert [entry.logprob for entry in found if not entry.top] == [
        pytest.approx(-(place + 1) - token / 64) for place, token in enumerate(prompt[1:]) if not wanted
    ]
    assert all(len(entry.top) == wanted for entry in found)
    assert output(request) == answer_alone(prompt, seeded(4), MAX_CONTEXT)[0]
    for seed, neighbour in enumerate(neighbours):
        assert output(neighbour) == answer_alone([4] * 6, seeded(seed), MAX_CONTEXT)[0]


def test_a_tokens_logprob_is_that_of_its_place_in_the_top() -> None:
    engine = make_engine(FakeDevice())
    engine.add_request([5, 6], seeded(3, max_tokens=1, logprobs=2))
    (found,) = (engine.step() or engine.step())[0].logprobs or ()
    assert found.logprob == dict(found.top)[found.token_id]


def banned(device: FakeDevice) -> list[set[int]]:
    """Tokens that the first row may not become, by step that sampled."""
    samplings = [batch.sampling for batch in device.batches if batch.sampling]
    return [set(one.bias_tokens[0][np.isneginf(one.bias_values[0])].tolist()) for one in samplings]


def test_bad_words_never_appear() -> None:
    whole = answer_alone([5], seeded(3, max_tokens=30), MAX_CONTEXT)[0]
    device = FakeDevice()
    engine = make_engine(device)
    single, pair = whole[2], whole[10:12]
    request = add(engine, [5], seeded(3, max_tokens=30, bad_words=["x"]), bad_words=[[single], pair])
    finish(engine)
    tokens = output(request)
    assert single not in tokens
    assert pair not in [tokens[i : i + 2] for i in range(len(tokens))]
    assert all(single in one for one in banned(device))
    after = [{single, pair[1]} if before == pair[0] else {single} for before in [None, *tokens[:-1]]]
    assert banned(device) == after


def test_logits_processors_see_the_output_so_far() -> None:
    seen: list[tuple[list[int], list[int]]] = []

    def no_repeats(prompt: Sequence[int], so_far: Sequence[int]) -> Mapping[int, float]:
        seen.append((list(prompt), list(so_far)))
        return dict.fromkeys(so_far, -np.inf)

    engine = make_engine(FakeDevice())
    request = add(engine, [5, 6], seeded(3, max_tokens=30, logits_processors=[no_repeats]))
    plain = add(engine, [5, 6], seeded(4, max_tokens=30))
    finish(engine)
    tokens = output(request)
    assert len(set(tokens)) == 30
    assert seen == [([5, 6], tokens[:i]) for i in range(30)]
    assert output(plain) == answer_alone([5, 6], seeded(4, max_tokens=30), MAX_CONTEXT)[0]


@pytest.mark.parametrize(
    "wrong", [{VOCAB_SIZE: 1.0}, {-1: 1.0}, dict.fromkeys(range(2000), 1.0), None, {5: np.nan}, {5: np.inf}, {5: "a"}]
)
def test_a_broken_logits_processor_ends_its_own_request_only(wrong: Any) -> None:
    engine = make_engine(FakeDevice())
    bad = add(engine, [5], seeded(3, logits_processors=[lambda prompt, so_far: wrong]))
    good = add(engine, [5], seeded(4))
    ended = []
    while engine.has_work:
        ended += [one for one in engine.step() if one.finish_reason]
        engine.check()
    assert (ended[0].request_id, ended[0].finish_reason) == (bad.id, "abort")
    assert "logits processor failed" in str(ended[0].stop_reason)
    assert output(good) == answer_alone([5], seeded(4), MAX_CONTEXT)[0]


def test_biases_are_bounded_together() -> None:
    engine = Engine(FakeDevice(vocab_size=4096), vocab_size=4096, max_context=40, eos_token_ids=[EOS])
    with pytest.raises(InvalidRequestError, match="too many together"):
        engine.new_request([5], seeded(1, logit_bias=dict.fromkeys(range(1024), 1.0)), bad_words=[[2000]])


class Watched(FakeDevice):
    """Notes how many steps are unread when another one begins."""

    def __init__(self) -> None:
        super().__init__()
        self.unread: list[int] = []

    def forward(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> int:
        self.unread.append(len(self._tickets))
        return super().forward(batch, token_sources)


@pytest.mark.parametrize("more", [{"repetition_penalty": 1.5}, {"bad_words": ["x"]}])
def test_what_depends_on_the_output_is_sampled_when_it_is_known_and_computed_before(more: dict[str, Any]) -> None:
    device = Watched()
    engine = make_engine(device)
    word = [[1, 2]] if "bad_words" in more else []
    requests = [add(engine, [5], seeded(seed, max_tokens=9 + 5 * seed, **more), bad_words=word) for seed in range(2)]
    finish(engine)
    assert device.unread == [0] + [1] * 13, "the step before is not read yet"
    for seed, request in enumerate(requests):
        assert output(request) == answer_alone([5], seeded(seed, max_tokens=9 + 5 * seed), MAX_CONTEXT)[0]


def test_the_next_step_is_launched_before_the_last_ones_tokens_are_known() -> None:
    device = FakeDevice()
    engine = make_engine(device)
    add(engine, [5], seeded(1))
    add(engine, [6], seeded(2))
    engine.step()
    engine.step()
    assert len(device._tickets) == 1
    assert len(device.batches) == 1  # the fake runs a step when it is asked for
    finish(engine)
    assert [batch.token_ids.tolist() for batch in device.batches[:1]] == [[5, 6]]
