"""The engine: one loop that plans steps, launches them, and hands out their tokens. One thread owns it.

A step is planned and launched while the one before it runs:

    host     plan N+1, launch N+1 │ read N, hand out │ plan N+2, launch N+2 │ read N+1 …
    device   ──────── step N ─────┼───────────── step N+1 ──────────────────┼──── step N+2 …

So the last token of a decoding request may be known to the device only, which feeds it to the next step itself. A
request that turns out to have ended in step N is in step N+1 already: what that gives is dropped, and the pages are
fenced until it has ended. Where sampling depends on the output so far (penalties, bad words of several tokens, logits
processors, guides), step N+1 computes its logits while the host reads step N, and samples when it is told how. Where
drafts are verified (speculative decoding, runtime/speculation.py), the host reads step N before it plans N+1.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, repeat
from typing import Any, NamedTuple

from warploom.errors import EngineError
from warploom.runtime.device import Device
from warploom.runtime.draft_model import Drafter
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.guide import GuideCompiler
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request
from warploom.runtime.request_limits import RequestLimits
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.scheduler import Schedule, Scheduler
from warploom.runtime.speculation import Speculator, make_proposer
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_outputs import OutputWriter, RequestOutput
from warploom.runtime.step_plan import StepPlan, StepPlanner, Verification
from warploom.runtime.step_reader import StepReader


class _Flight(NamedTuple):
    """A step under way: the device's ticket, what was planned, and when it was launched."""

    ticket: Any
    plan: StepPlan
    launched_at: float


class Engine:
    """Continuous batching on one device.

    Args:
        device: runs the steps; the KV cache is as large as its.
        vocab_size: token ids are below it.
        max_context: most tokens of one sequence, prompt and output.
        eos_token_ids: the model's end tokens.
        max_waiting: requests that may queue beside the running ones.
        guides: compiles the guides of requests; None: none is taken.
        speculation: how tokens are drafted; None: they are not.
        drafter: the model that drafts, if one does.

    Attributes:
        max_context: the model's, or the KV cache's capacity if that is smaller.
    """

    def __init__(
        self,
        device: Device,
        *,
        vocab_size: int,
        max_context: int,
        eos_token_ids: Sequence[int],
        max_waiting: int = 1024,
        guides: GuideCompiler | None = None,
        speculation: SpeculativeConfig | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        max_pages = -(-max_context // device.page_size)
        self._device, self._vocab_size, self._max_waiting = device, vocab_size, max_waiting
        self._kv_cache = KVCache(device.num_pages, device.page_size, device.max_seqs, max_pages)
        self._scheduler = Scheduler(
            self._kv_cache,
            max_seqs=device.max_seqs,
            max_batched_tokens=device.max_tokens,
            max_rows=device.max_rows,
        )
        self._sampler = SamplerTable(device.max_seqs, vocab_size)
        self._planner = StepPlanner(self._scheduler, self._sampler)
        self._writer = OutputWriter(self._sampler, self.abort)
        self._requests: dict[int, Request] = {}
        self._flights: deque[_Flight] = deque()
        self._ids = count()
        self._last_end = 0.0  # of a step
        self._stats = EngineStats(max_running=device.max_seqs)
        self._speculator: Speculator | None = None
        if speculation is not None:
            proposer = make_proposer(speculation, self._scheduler, self._sampler, drafter)
            self._speculator = Speculator(
                speculation, proposer, self._scheduler, self._sampler, self._stats, device.cheap_tokens
            )
        self.max_context = min(max_context, self._kv_cache.max_tokens)
        self._limits = RequestLimits(vocab_size, self.max_context, frozenset(eos_token_ids), guides)

    @property
    def has_room(self) -> bool:
        """Whether the queue takes another request."""
        return len(self._scheduler.waiting) < self._max_waiting

    @property
    def has_work(self) -> bool:
        """Whether some request is unfinished."""
        return bool(self._requests)

    @property
    def in_flight(self) -> bool:
        """Whether a step has been launched whose end has not been seen."""
        return bool(self._flights)

    def __contains__(self, request_id: int) -> bool:
        """Whether the request is queued or running."""
        return request_id in self._requests

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raise InvalidRequestError where `new_request` would."""
        self._limits.check(prompt_token_ids, params)

    def new_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        bad_words: Sequence[Sequence[int]] = (),
        priority: int = 0,
        cache_salt: str = "",
        leader: Request | None = None,
    ) -> Request:
        """Return a request for `add`; any thread may ask.

        Args:
            bad_words: the tokens of those in `params`.
            leader: a request with the same prompt, added before: its pages are shared.

        Raises:
            InvalidRequestError: the prompt is empty, too long, or holds ids outside the vocabulary; or the
                parameters do, or they ask for more tokens than fit, or their guide cannot be compiled.
        """
        return self._limits.make(next(self._ids), prompt_token_ids, params, bad_words, priority, cache_salt, leader)

    def add(self, request: Request) -> None:
        """Queue a request, however long the queue is."""
        self._scheduler.add(request)
        self._requests[request.id] = request

    def add_request(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a request and return its id.

        Raises:
            InvalidRequestError: see `new_request`.
            EngineError: the queue is full.
        """
        request = self.new_request(prompt_token_ids, params)
        if not self.has_room:
            raise EngineError(
                "The engine's queue is full",
                expected=f"fewer than {self._max_waiting} waiting requests",
                found=str(len(self._scheduler.waiting)),
                fix="wait for some to finish, or build the engine with a longer queue",
            )
        self.add(request)
        return request.id

    def abort(self, request_id: int) -> None:
        """Forget a request and free what it holds. One that has finished is no error: the two may cross."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            request.is_done = True
            if request.row is not None:
                self._sampler.forget(request.row)
            self._scheduler.remove(request)

    def step(self) -> list[RequestOutput]:
        """Launch a step, then return what the one before it gave to each request that got something.

        Without work, only the latter; without that either, do nothing.

        Raises:
            Exception: what the device raised. The requests of the steps in flight are gone; the others and the
                engine go on.
        """
        try:
            return self._step()
        except Exception:
            self._drop_steps_in_flight()
            raise

    def stats(self) -> EngineStats:
        """Return gauges and counters; any thread may ask."""
        pool = self._kv_cache.pool
        return replace(
            self._stats,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_usage=pool.num_held / pool.num_pages,
            preemptions=self._scheduler.num_preempted,
        )

    def check(self) -> None:
        """Assert the invariants of scheduler and cache (tests, and idle moments in production)."""
        self._scheduler.check()
        held = {request.id for request in (*self._scheduler.running, *self._scheduler.waiting)}
        assert held == self._requests.keys()

    def _step(self) -> list[RequestOutput]:
        started = time.perf_counter()
        waited = self._stats.wait_seconds
        outputs: list[RequestOutput] = []
        if self._flights and self._must_read():
            outputs = self._read()
        drafts = {} if self._speculator is None or self._flights else self._speculator.drafts()
        schedule = self._scheduler.schedule(drafts)
        if schedule is None:  # pages are needed that only the end of the step in flight frees
            outputs += self._read()
            schedule = self._scheduler.schedule()
            assert schedule is not None
        launches = bool(len(schedule.decodes) or schedule.chunks)
        if launches:
            outputs += self._launch(schedule)
            if self._sampler.errors:
                outputs += self._writer.end_failed(self._scheduler)
        if len(self._flights) > launches:
            outputs += self._read()
        self._stats.host_seconds += time.perf_counter() - started - (self._stats.wait_seconds - waited)
        return outputs

    def _must_read(self) -> bool:
        """Whether the next step depends on what the one in flight gives."""
        if self._speculator is None:
            return False
        return bool(self._flights[-1].plan.verified) or self._needs_tokens or self._speculator.waits()

    @property
    def _needs_tokens(self) -> bool:
        """Whether the sampling of some running request depends on its last token."""
        return bool(self._sampler.needs_tokens[self._scheduler.rows].any())

    def _launch(self, schedule: Schedule) -> list[RequestOutput]:
        """Launch a step; return what the one in flight gave, if it had to be read to sample."""
        for request in schedule.admitted:
            self._note_start(request)
        plan = self._planner.plan(schedule)
        launched_at = time.perf_counter()
        self._kv_cache.pool.launched += 1
        self._scheduler.launched(schedule)
        self._planner.launched(plan)
        if not (self._flights and self._needs_tokens):
            ticket = self._device.launch(self._planner.with_sampling(plan), plan.token_sources)
            self._flights.append(_Flight(ticket, plan, launched_at))
            return []
        forwarded = self._device.forward(plan.batch, plan.token_sources)
        self._flights.append(_Flight(None, plan, launched_at))
        outputs = self._read()
        ticket = self._device.sample(forwarded, self._planner.with_sampling(plan))
        self._flights[-1] = self._flights[-1]._replace(ticket=ticket)
        return outputs

    def _note_start(self, request: Request) -> None:
        """Note that a request has been given a row, for the first time or again."""
        if request.started_at is None:
            request.started_at = time.perf_counter()
            request.num_cached_tokens = int(self._scheduler.computed[request.row])
            self._stats.prefix_queries += request.num_prompt_tokens
            self._stats.prefix_hits += request.num_cached_tokens
            self._stats.prompt_tokens += request.num_prompt_tokens

    def _read(self) -> list[RequestOutput]:
        """Wait for the oldest step in flight, and hand out what it gave."""
        flight = self._flights[0]
        asked = time.perf_counter()
        output = self._device.result(flight.ticket)
        self._count_step(flight, asked)
        self._flights.popleft()
        pool = self._kv_cache.pool
        pool.end_steps(pool.launched - len(self._flights))
        plan, reader = flight.plan, StepReader(output, self._vocab_size)
        accepted = self._verify(plan.verified, reader)
        for request, context in plan.filled:
            if request.row is not None:  # it goes on
                tokens = [*request.token_ids, *accepted[request]] if request in accepted else request.token_ids
                self._kv_cache.remember(request.row, tokens, min(context, len(tokens)))
        reader.score(plan.scored, plan.num_sampled)
        outputs = self._writer.write(enumerate(plan.sampled), reader)
        for one in plan.verified:
            if one.request in accepted:
                rows = range(one.first, one.first + 1 + len(accepted[one.request]))
                outputs += self._writer.write(zip(rows, repeat(one.request)), reader)
        self._stats.generation_tokens += len(outputs)
        return outputs

    def _verify(self, verified: Sequence[Verification], reader: StepReader) -> dict[Request, tuple[int, ...]]:
        """Return the drafts that turned out to be the next tokens of requests that go on."""
        if not verified:
            return {}
        assert self._speculator is not None
        going = [one for one in verified if not one.request.is_done]
        return {one.request: one.drafts[: self._speculator.verify(one, reader)] for one in going}

    def _count_step(self, flight: _Flight, asked: float) -> None:
        now, stats = time.perf_counter(), self._stats
        stats.steps += 1
        stats.wait_seconds += now - asked
        stats.last_step_seconds = now - max(flight.launched_at, self._last_end)
        stats.step_seconds += stats.last_step_seconds
        stats.last_step_tokens = len(flight.plan.batch.token_ids)
        self._last_end = now

    def _drop_steps_in_flight(self) -> None:
        """After a failure: forget the running requests, and what steps in flight may have left in the cache."""
        for flight in self._flights:
            with suppress(Exception):  # the first one has been raised already
                self._device.result(flight.ticket)
        self._flights.clear()
        for request in self._scheduler.running.copy():
            self.abort(request.id)
        pool = self._kv_cache.pool
        pool.end_steps(pool.launched)
        self._kv_cache.forget_prefixes()
        self._planner.forget_sources()
