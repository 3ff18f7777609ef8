"""Scheduler and KV cache under any order of events: exact accounts, order, progress, no page in flight given away."""

from __future__ import annotations

import os
from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from warploom.errors import InvalidRequestError
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.scheduler import Schedule, Scheduler

LONG = bool(os.environ.get("WARPLOOM_LONG"))
PROMPTS = [[1] * 40, [1] * 7 + [2] * 33, [2] * 40]  # with common prefixes, so that pages are shared
END, WRONG = 3, 4


class Flight(NamedTuple):
    """A step under way: whose last row samples, who it fills up to where, whose drafts it verifies, its pages."""

    sampled: list[Request]
    filled: list[tuple[Request, int]]
    drafts: dict[Request, tuple[int, ...]]
    touched: dict[int, Request]


def make_request(
    request_id: int,
    prompt: list[int],
    max_tokens: int,
    priority: int = 0,
    salt: str = "",
    leader: Request | None = None,
) -> Request:
    params = SamplingParams(prompt_logprobs=0 if request_id % 7 == 6 else None)
    return Request(
        request_id, prompt, params, max_tokens, frozenset([END]), 0, priority=priority, cache_salt=salt, leader=leader
    )


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, launches, reads and aborts at random, one or two steps in flight, with and without drafts. A page
    remembers what was written to it: every step checks that what its sequences will read is what they are, however
    pages were shared and moved.
    """

    @initialize(
        num_pages=st.integers(2, 10),
        page_size=st.sampled_from([1, 2, 4]),
        max_seqs=st.integers(1, 5),
        more_tokens=st.integers(0, 8),
        more_rows=st.integers(0, 8),
    )
    def build(self, num_pages: int, page_size: int, max_seqs: int, more_tokens: int, more_rows: int) -> None:
        self.cache = KVCache(num_pages, page_size, max_seqs, max_pages=8)
        self.max_batched_tokens, self.max_rows = max_seqs + more_tokens, max_seqs + more_rows
        self.scheduler = Scheduler(
            self.cache, max_seqs=max_seqs, max_batched_tokens=self.max_batched_tokens, max_rows=self.max_rows
        )
        self.live: dict[int, Request] = {}
        self.flights: deque[Flight] = deque()
        self.memory: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}  # page, offset -> salt, tokens up to here
        self.next_id = 0
        self.operations = 0

    @rule(
        prompt=st.sampled_from(PROMPTS),
        num_prompt_tokens=st.integers(1, 8) | st.integers(1, 40),
        max_tokens=st.integers(1, 25),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        salt=st.sampled_from(["", "", "tenant"]),
        copies=st.integers(1, 3),
    )
    def add(
        self, prompt: list[int], num_prompt_tokens: int, max_tokens: int, priority: int, salt: str, copies: int
    ) -> None:
        leader: Request | None = None
        for _ in range(copies):
            request = make_request(self.next_id, prompt[:num_prompt_tokens], max_tokens, priority, salt, leader)
            self.next_id += 1
            if num_prompt_tokens + max_tokens - 1 > self.cache.max_tokens:
                with pytest.raises(InvalidRequestError, match="does not fit"):
                    self.scheduler.add(request)
                return
            self.scheduler.add(request)
            self.live[request.id] = request
            leader = leader or request

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.end(self.live[data.draw(st.sampled_from(sorted(self.live)))])

    @rule()
    def forget(self) -> None:
        self.cache.forget_prefixes()

    @rule(
        ends=st.lists(st.sampled_from([False] * 7 + [True]), min_size=2, max_size=12),
        num_drafts=st.sampled_from([0, 0, 1, 2, 5]),
        num_right=st.integers(0, 5),
    )
    def step(self, ends: list[bool], num_drafts: int, num_right: int) -> None:
        for end in ends:
            self.one_step(end, num_drafts, num_right)

    @precondition(lambda self: self.flights)
    @rule(end=st.booleans())
    def read(self, end: bool) -> None:
        """A step ends, and every other request with it if `end`."""
        sampled, filled, drafts, _ = self.flights.popleft()
        pool = self.cache.pool
        pool.end_steps(pool.launched - len(self.flights))
        accepted: dict[Request, tuple[int, ...]] = {}
        for request, drafted in drafts.items():
            if request.id in self.live:
                ends_now = end and sampled.index(request) % 2
                right = 0 if ends_now else [*drafted, WRONG].index(WRONG)
                accepted[request] = drafted[:right]
                self.scheduler.accepted(request, right)
        for request, context in filled:
            if request.id in self.live:
                assert request.row is not None
                tokens = [*request.token_ids, *accepted.get(request, ())]
                self.cache.remember(request.row, tokens, min(context, len(tokens)))
        for index, request in enumerate(sampled):
            if request.id not in self.live:
                continue
            request.token_ids += accepted.get(request, ())
            request.token_ids.append(END if end and index % 2 else (request.id % 2) + 1)
            assert request.num_output_tokens <= request.max_tokens
            if request.token_ids[-1] == END or request.num_output_tokens == request.max_tokens:
                self.end(request)

    def end(self, request: Request) -> None:
        del self.live[request.id]
        self.scheduler.remove(request)

    def drafts(self, num_drafts: int, num_right: int) -> dict[Request, tuple[int, ...]]:
        """Drafts of all that decode, as far as there are pages; wrong from some place on."""
        found: dict[Request, tuple[int, ...]] = {}
        for request in self.scheduler.running:
            row = request.row
            assert row is not None
            room = int(self.scheduler.limit[row] - self.scheduler.known[row])
            if self.scheduler.known[row] - self.scheduler.computed[row] == 1 and room > 0:
                held = self.cache.pool.num_held
                number = self.scheduler.reserve(request, min(num_drafts, room))
                more = self.cache.pool.num_held - held
                assert not more or self.cache.pool.num_available >= len(self.scheduler.running)
                if number:
                    found[request] = ((request.id % 2 + 1,) * num_right + (WRONG,) * number)[:number]
        return found

    def one_step(self, end: bool, num_drafts: int = 0, num_right: int = 0) -> None:
        self.operations += 1
        if len(self.flights) == 2:
            self.read(end)
        while self.flights and (num_drafts or self.flights[-1].drafts):
            self.read(end)
        drafts = self.drafts(num_drafts, num_right) if num_drafts else {}
        first = min(self.live.values(), key=lambda request: request.order) if self.live else None
        held_back = {request.id for request in self.live.values() if request.leader is not None}
        schedule = self.scheduler.schedule(drafts)
        if schedule is None:
            assert self.flights, "nobody is waited for"
            self.read(end)
            self.one_step(end)
            return
        self.scheduler.check()
        self.check_schedule(schedule, first, held_back)
        self.launch(schedule)
        if not schedule.num_tokens and self.flights:
            self.read(end)

    def check_schedule(self, schedule: Schedule, first: Request | None, held_back: set[int]) -> None:
        requests = self.scheduler.requests_of(schedule.decodes) + [chunk.request for chunk in schedule.chunks]
        rows = sum(
            chunk.num_tokens if chunk.drafts or chunk.request.wants_prompt_logprobs else chunk.samples
            for chunk in schedule.chunks
        )
        assert schedule.num_tokens <= self.max_batched_tokens
        assert len(schedule.decodes) + rows <= self.max_rows
        assert len(set(requests)) == len(requests)
        assert {request.id for request in requests} <= self.live.keys()
        assert first is None or first not in schedule.preempted
        if not self.flights:
            assert bool(requests) == bool(self.live), "idle while there is work"
            full = schedule.num_tokens == self.max_batched_tokens or len(schedule.decodes) + rows == self.max_rows
            waits = schedule.preempted or full or (first and first.id in held_back)
            assert first is None or first in requests or (first.row is None and waits)

    def launch(self, schedule: Schedule) -> None:
        """Write what the step computes, and look at all that it reads."""
        decodes = self.scheduler.requests_of(schedule.decodes)
        starts = self.scheduler.computed[schedule.decodes].tolist()
        pieces = [(request, start, 1) for request, start in zip(decodes, starts, strict=True)]
        pieces += [(chunk.request, chunk.start, chunk.num_tokens) for chunk in schedule.chunks]
        drafts = {chunk.request: chunk.drafts for chunk in schedule.chunks if chunk.drafts}
        touched: dict[int, Request] = {}
        written: set[tuple[int, int]] = set()
        for request, start, num_tokens in pieces:
            for position in range(start, start + num_tokens):
                place = self.place(request, position)
                assert self.cache.pool.ref_counts[place[0]] == 1, "a shared page is written"
                assert place not in written, "two sequences write one place"
                for flight in self.flights:
                    owner = flight.touched.get(place[0], request)
                    assert owner is request, "a page in flight was given to another request"
                written.add(place)
                touched[place[0]] = request
                self.memory[place] = self.content(request, position, drafts.get(request, ()))
            for position in range(start):
                assert self.memory[self.place(request, position)] == self.content(request, position), "foreign tokens"
        contexts = [(request, start + num) for request, start, num in pieces]
        sampled = decodes + [chunk.request for chunk in schedule.chunks if chunk.samples]
        if pieces:
            self.cache.pool.launched += 1
            self.scheduler.launched(schedule)
            self.flights.append(Flight(sampled, contexts, drafts, touched))

    def place(self, request: Request, position: int) -> tuple[int, int]:
        page, offset = divmod(position, self.cache.page_size)
        return int(self.cache.page_table[request.row, page]), offset

    def content(self, request: Request, position: int, drafts: tuple[int, ...] = ()) -> tuple[str, tuple[int, ...]]:
        """All that K and V at a position depend on; outputs in flight are not known, but their order is."""
        known = [*request.token_ids, *drafts][: position + 1]
        missing = position + 1 - len(known)
        return request.cache_salt, (*known, *[(request.id % 2) + 1] * missing)

    @invariant()
    def accounts_are_exact(self) -> None:
        if hasattr(self, "live"):
            self.scheduler.check()

    def teardown(self) -> None:
        """Everything that was accepted finishes, and nothing stays held."""
        if not hasattr(self, "live"):
            return
        limit = 10_000
        while self.live or self.flights:
            self.one_step(False)
            limit -= 1
            assert limit, "no end"
        assert self.cache.pool.num_held == 0
        self.scheduler.check()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=600 if LONG else 100, phases=[Phase.generate], stateful_step_count=60 if LONG else 50
)
