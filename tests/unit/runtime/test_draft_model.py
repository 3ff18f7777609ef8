"""A model that drafts: the same answers whatever it says, and what it says is good where it is the same model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime_fakes import EOS, VOCAB_SIZE, FakeDevice, answer_alone
from tests.unit.runtime.test_speculation import JOBS, add, check_memory, finish, guides, output
from warploom.runtime.device import StepOutput
from warploom.runtime.draft_model import Drafter, DraftModel
from warploom.runtime.engine import Engine
from warploom.runtime.guide import Guide
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_batch import StepBatch

MAX_CONTEXT = 60


class Apprentice(FakeDevice):
    """The fake model, but wrong where the sum of position and token is a multiple of a number."""

    def __init__(self, wrong: int, **options: Any) -> None:
        super().__init__(**options)
        self.wrong = wrong

    def run(self, batch: StepBatch) -> StepOutput:
        output = super().run(batch)
        if batch.sampling is None:
            return output
        wrong = (batch.sampling.sample_positions + output.tokens) % self.wrong == 0
        return output._replace(tokens=(output.tokens ^ wrong).astype(np.int32))


def make_engine(device: FakeDevice, drafter: FakeDevice, drafts: int = 4, context: int = 60, **more: Any) -> Engine:
    config = SpeculativeConfig(model="x", num_speculative_tokens=drafts)
    return Engine(
        device,
        vocab_size=VOCAB_SIZE,
        max_context=MAX_CONTEXT,
        eos_token_ids=[EOS],
        speculation=config,
        drafter=Drafter(drafter, context),
        **more,
    )


def check_drafter(engine: Engine) -> None:
    """Pages are accounted for, and hold what they are found by."""
    assert engine._speculator is not None
    proposer = engine._speculator._proposer
    assert isinstance(proposer, DraftModel)
    proposer._kv_cache.check()
    assert len(proposer._kv_cache.rows) == len(proposer._sequences)
    device = proposer._device
    assert isinstance(device, FakeDevice)
    for page, key in enumerate(proposer._kv_cache.pool._keys):
        if key is not None:
            held = device.memory[page * device.page_size : (page + 1) * device.page_size, 0]
            assert held.astype(np.int32).tobytes() == key[1]


@settings(max_examples=60)
@given(
    st.lists(JOBS, min_size=1, max_size=8),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(20, 60), st.integers(4, 60)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(10, 60),
    st.integers(1, 6),
    st.integers(2, 40),
)
def test_no_drafter_changes_a_token(
    jobs: list[tuple[list[int], int, list[int], int, str, int, dict[str, Any]]],
    page_size: int,
    drafter_page_size: int,
    num_pages: tuple[int, int],
    max_seqs: tuple[int, int],
    context: int,
    drafts: int,
    wrong: int,
) -> None:
    device = FakeDevice(num_pages=num_pages[0], page_size=page_size, max_seqs=max_seqs[0], max_tokens=9, max_rows=9)
    drafter = Apprentice(wrong, num_pages=num_pages[1], page_size=drafter_page_size, max_seqs=max_seqs[1], max_tokens=9)
    engine = make_engine(device, drafter, drafts, context)
    made: list[tuple[Request, list[int]]] = []
    for seed, (stem, length, tail, wait, salt, priority, more) in enumerate(jobs):
        prompt = stem[:length] + tail
        if len(prompt) < engine.max_context:
            params = SamplingParams(seed=seed, **more)
            made.append((add(engine, prompt, params, cache_salt=salt, priority=priority), prompt))
        for _ in range(wait):
            engine.step()
            engine.check()
            check_drafter(engine)
    finish(engine)
    check_memory(engine, device)
    check_drafter(engine)
    for request, prompt in made:
        assert output(request) == answer_alone(prompt, request.params, engine.max_context)[0]


@pytest.mark.parametrize(
    "more", [{}, {"repetition_penalty": 1.5}, {"min_tokens": 20}, {"guide": Guide("regex", "[a-y]{20,40}z")}]
)
def test_the_same_model_draws_the_same(more: dict[str, Any]) -> None:
    """Noise, penalties, bans and guides are the same behind drafts as they will be: all of them are accepted."""
    device, drafter = FakeDevice(max_rows=8), FakeDevice()
    engine = make_engine(device, drafter, guides=guides())
    for seed in range(4):
        add(engine, [5, 6, 7], SamplingParams(seed=seed, max_tokens=30, ignore_eos=True, **more))
        finish(engine)
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 60
    computed = sum(len(batch.token_ids) for batch in drafter.batches)
    assert computed <= 4 * 31, "nothing is computed twice"


def test_it_goes_on_from_what_was_accepted() -> None:
    """Other tokens than its drafts took their places while nothing was drafted: then it is right, and accepted."""
    device, drafter = FakeDevice(max_rows=8), Apprentice(1)
    engine = make_engine(device, drafter)
    assert engine._speculator is not None
    request = add(engine, [5], SamplingParams(seed=3, max_tokens=50, ignore_eos=True))
    while len(drafter.batches) < 4:
        engine.step()
    engine._speculator._cheap_tokens = 0
    while len(request.token_ids) < 12:
        engine.step()
    assert (engine.stats().accepted_tokens, engine.stats().draft_tokens) == (0, 4)
    engine._speculator._cheap_tokens, drafter.wrong = 16, 1 << 30
    finish(engine)
    assert engine.stats().accepted_tokens == engine.stats().draft_tokens - 4 > 20
    assert output(request) == answer_alone([5], request.params, MAX_CONTEXT)[0]
