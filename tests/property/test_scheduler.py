"""Scheduler and KV cache under any order of events: exact accounts, order of arrival, progress."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from warploom.errors import InvalidRequestError
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.scheduler import Scheduler


def make_request(request_id: int, num_prompt_tokens: int, max_tokens: int) -> Request:
    return Request(request_id, [0] * num_prompt_tokens, SamplingParams(), max_tokens, frozenset(), 0)


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps and aborts at random; a step appends a token to each request that samples."""

    @initialize(
        num_pages=st.integers(1, 12),
        page_size=st.sampled_from([1, 2, 4]),
        max_seqs=st.integers(1, 4),
        more_tokens=st.integers(0, 8),
    )
    def build(self, num_pages: int, page_size: int, max_seqs: int, more_tokens: int) -> None:
        self.cache = KVCache(num_pages, page_size, max_seqs, max_pages=8)
        self.max_batched_tokens = max_seqs + more_tokens
        self.scheduler = Scheduler(self.cache, max_seqs=max_seqs, max_batched_tokens=self.max_batched_tokens)
        self.live: list[Request] = []
        self.next_id = 0

    @rule(num_prompt_tokens=st.integers(1, 40), max_tokens=st.integers(1, 20))
    def add(self, num_prompt_tokens: int, max_tokens: int) -> None:
        request = make_request(self.next_id, num_prompt_tokens, max_tokens)
        self.next_id += 1
        if num_prompt_tokens + max_tokens - 1 > self.cache.max_tokens:
            with pytest.raises(InvalidRequestError, match="does not fit"):
                self.scheduler.add(request)
        else:
            self.scheduler.add(request)
            self.live.append(request)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.scheduler.remove(request)
        self.live.remove(request)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.one_step()

    def one_step(self) -> None:
        decoding = [request for request in self.scheduler.running if request.num_remaining == 1]
        oldest = self.live[0] if self.live else None
        schedule = self.scheduler.schedule()
        self.scheduler.check()
        scheduled = [chunk.request for chunk in schedule.chunks]
        assert sum(chunk.num_tokens for chunk in schedule.chunks) <= self.max_batched_tokens
        assert len(set(scheduled)) == len(scheduled)
        assert oldest not in schedule.preempted
        assert bool(scheduled) == bool(self.live)  # never idle while there is work
        assert set(scheduled) >= {request for request in decoding if request.row is not None}
        if oldest:
            assert oldest in scheduled
        for request, num_tokens in schedule.chunks:
            assert request.row is not None
            request.num_computed += num_tokens
            if request.num_remaining == 0:
                request.token_ids.append(0)
                if request.num_output_tokens == request.max_tokens:
                    self.scheduler.remove(request)
                    self.live.remove(request)

    @invariant()
    def accounts_are_exact(self) -> None:
        if not hasattr(self, "live"):
            return
        self.scheduler.check()
        held = sum(self.cache.num_pages_for(self.cache.capacity(row)) for row in self.cache.rows)
        assert held + self.cache.pool.num_free == self.cache.pool.num_pages

    def teardown(self) -> None:
        """Everything that was accepted finishes, and nothing stays held."""
        if not hasattr(self, "live"):
            return
        limit = 10_000
        while self.live:
            self.one_step()
            limit -= 1
            assert limit, "no end"
        assert self.cache.pool.num_free == self.cache.pool.num_pages


TestScheduler = SchedulerMachine.TestCase
