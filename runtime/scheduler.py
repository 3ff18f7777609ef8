"""Which tokens of which requests the next step computes.

There are no phases: a request has tokens that the model has seen and tokens that it has not; a step hands out one
budget of tokens. Decoding requests come first (one token each), then prompts in order, cut in chunks where the
budget ends, then waiting requests are admitted in order. The order is that of priority, then of arrival.

Admission takes pages for all tokens known so far, or shares those that keep a prefix of them; later pages are taken
one at a time as the output grows. When they run out, the last running request is preempted: its pages are freed and
it waits to be computed again. A waiting request preempts running ones of less priority if it cannot start otherwise.
So the first of all never waits for another, and each request that fits in the cache alone finishes. (The policy is
vLLM's; its chunked prefill is from Sarathi-Serve, https://arxiv.org/abs/2403.02310.)

A step is planned before the tokens of the one in flight are known: `known` counts tokens that will have been sampled.
Nothing is preempted while a step is in flight, whose pages cannot be used at once: `schedule` gives None instead,
and is asked again when that step has ended. Numbers of running requests are arrays by row, so that a step in which
everything decodes costs the same few numpy calls for any number of requests.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.errors import InvalidRequestError
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request

I32 = NDArray[np.int32]
_ORDER = attrgetter("order")
_NO_DRAFTS: Mapping[Request, tuple[int, ...]] = {}


class Chunk(NamedTuple):
    """Tokens `start` .. `start + num_tokens` of a request; `samples`: they reach its end, the next is sampled.

    With `drafts`, they are its last token and those, which are verified: all of them sample.
    """

    request: Request
    start: int
    num_tokens: int
    samples: bool
    drafts: tuple[int, ...] = ()


class Schedule(NamedTuple):
    """One step.

    Attributes:
        decodes: [D] rows that compute their last token and sample the next.
        chunks: other work, verifications first. admitted: requests that have just been given a row, all with chunks.
        preempted: requests that have lost theirs.
    """

    decodes: I32
    chunks: list[Chunk]
    admitted: list[Request]
    preempted: list[Request]

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return len(self.decodes) + sum(chunk.num_tokens for chunk in self.chunks)


class _Budget:
    """What is left of a step: tokens, and rows of logits."""

    def __init__(self, tokens: int, rows: int) -> None:
        self.tokens, self.rows = tokens, rows

    def take(self, request: Request, start: int, end: int) -> Chunk | None:
        """Return as much of a request's tokens `start` .. `end` as fits, or None."""
        num_tokens = min(end - start, self.tokens)
        if request.wants_prompt_logprobs:
            num_tokens = num_rows = min(num_tokens, self.rows)
        else:
            num_tokens -= num_tokens == end - start and not self.rows  # the last token needs a row
            num_rows = int(num_tokens == end - start)
        if num_tokens <= 0:
            return None
        self.tokens -= num_tokens
        self.rows -= num_rows
        return Chunk(request, start, num_tokens, num_tokens == end - start)


class Scheduler:
    """Continuous batching over a KV cache.

    Args:
        max_batched_tokens: tokens of one step; at least `max_seqs`, so that every running request can decode.
        max_seqs: requests running at once.
        max_rows: rows of logits of one step, at least `max_seqs`.

    Attributes:
        waiting, running: in order.
        known: [max_seqs] tokens that a row will have when all launched steps have ended.
        computed: [max_seqs] of them, those whose K and V will be in the cache then.
        limit: [max_seqs] most tokens that are ever computed.
        num_preempted: requests, so far.
    """

    def __init__(self, kv_cache: KVCache, *, max_seqs: int, max_batched_tokens: int, max_rows: int) -> None:
        assert 0 < max_seqs <= min(max_batched_tokens, max_rows)
        self.kv_cache = kv_cache
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.known, self.computed, self.limit = np.zeros((3, max_seqs), np.int32)
        self.num_preempted = 0
        self._by_row: list[Request | None] = [None] * max_seqs
        self._rows: I32 | None = None  # of the running ones, in order; None: to be made anew
        self._max_batched_tokens, self._max_rows = max_batched_tokens, max_rows

    def add(self, request: Request) -> None:
        """Queue a request; InvalidRequestError if the cache could not hold it even alone."""
        if request.max_cached_tokens > self.kv_cache.max_tokens:
            raise InvalidRequestError(
                "The request does not fit in the KV cache",
                expected=f"prompt and output of at most {self.kv_cache.max_tokens + 1} tokens",
                found=f"{request.num_prompt_tokens} prompt + {request.max_tokens} output tokens",
                fix="shorten the prompt, lower max_tokens, or give the KV cache more memory",
                param="prompt",
            )
        insort(self.waiting, request, key=_ORDER)

    def remove(self, request: Request) -> None:
        """Forget a request, finished or not, and free what it holds."""
        held = self.waiting if request.row is None else self.running
        del held[bisect_left(held, request.order, key=_ORDER)]
        if request.row is not None:
            self._close(request)

    def requests_of(self, rows: I32) -> list[Request]:
        """Return the requests that run in some rows."""
        found = [self._by_row[row] for row in rows.tolist()]
        return found

    def reserve(self, request: Request, num_drafts: int) -> int:
        """Return for how many drafts a running request has pages; takes some if enough are left for what is certain."""
        row, kv_cache = request.row, self.kv_cache
        assert row is not None
        known, capacity = int(self.known[row]), int(kv_cache.capacity[row])
        missing = kv_cache.num_pages_for(known + num_drafts) - capacity // kv_cache.page_size
        if 0 < missing <= kv_cache.pool.num_available - len(self.running):
            kv_cache.grow(row, known + num_drafts)
            return num_drafts
        return max(0, min(num_drafts, capacity - known))

    def schedule(self, drafts: Mapping[Request, tuple[int, ...]] = _NO_DRAFTS) -> Schedule | None:
        """Choose the next step's work; the caller must call `launched` before the next time.

        None: pages are needed that only the end of the steps in flight will free.

        Args:
            drafts: of decoding requests whose tokens are all known to the host, as many as `reserve` allowed.
        """
        rows = self.rows
        ends = np.minimum(self.known.take(rows), self.limit.take(rows))
        preempted: list[Request] | None = []
        if (ends > self.kv_cache.capacity.take(rows)).any():
            preempted = self._make_room(ends)
        if preempted is None or not (preempted or self._preempt_for_waiting()):
            return None
        if rows is not self.rows:  # some were preempted
            rows = self.rows
            ends = np.minimum(self.known.take(rows), self.limit.take(rows))
        remaining = ends - self.computed.take(rows)
        decodes = rows.compress(remaining == 1)
        budget = _Budget(self._max_batched_tokens - len(decodes), self._max_rows - len(decodes))
        unfinished = np.flatnonzero(remaining > 1).tolist() if len(decodes) < len(rows) else ()
        decodes, chunks = self._verify(decodes, drafts, budget) if drafts else (decodes, [])
        taken = [self._take(self.running[index], budget) for index in unfinished]
        chunks += [chunk for chunk in taken if chunk]
        admitted = [] if preempted else self._admit(budget, chunks)
        return Schedule(decodes, chunks, admitted, preempted)

    def launched(self, schedule: Schedule) -> None:
        """Count the work of a step that has been launched."""
        self.computed[schedule.decodes] += 1
        self.known[schedule.decodes] += 1
        for request, _, num_tokens, samples, drafts in schedule.chunks:
            self.computed[request.row] += num_tokens - len(drafts)
            self.known[request.row] += samples

    def accepted(self, request: Request, num_drafts: int) -> None:
        """Count the drafts of a running request that turned out to be its next tokens, after the one that `launched`
        has counted. K and V of the others are written over.
        """
        self.computed[request.row] += num_drafts
        self.known[request.row] += num_drafts

    def check(self) -> None:
        """Assert the invariants: order, rows, room for every computed token, exact page accounts."""
        for requests in (self.running, self.waiting):
            assert all(first.order < second.order for first, second in pairwise(requests)), "order"
        assert all(request.row is None for request in self.waiting)
        assert [self._by_row[request.row or 0] for request in self.running] == self.running, "rows"
        assert {request.row for request in self.running} == self.kv_cache.rows, "rows in use"
        for request in self.running:
            row = request.row
            assert row is not None
            assert self.computed[row] <= min(self.kv_cache.capacity[row], self.limit[row]), "room"
            assert self.computed[row] < self.known[row] <= self.limit[row] + 1, "counts"
            in_flight = self.kv_cache.pool.launched - self.kv_cache.pool.ended
            assert 0 <= self.known[row] - len(request.token_ids) <= in_flight, "tokens in flight"
            assert self.limit[row] == request.max_cached_tokens, "limit"
        self.kv_cache.check()

    @property
    def rows(self) -> I32:
        """The rows of the running requests, in order."""
        if self._rows is None:
            self._rows = np.array([request.row for request in self.running], np.int32)
        return self._rows

    def _make_room(self, ends: I32) -> list[Request] | None:
        """Give every running request pages for its known tokens; return who was preempted. None: see `schedule`.

        Args:
            ends: how many tokens each needs room for.
        """
        short = np.flatnonzero(ends > self.kv_cache.capacity.take(self.rows)).tolist()
        growing = [(self.running[index], int(ends[index])) for index in short]
        preempted: list[Request] = []
        for request, end in growing:
            while request.row is not None and not self.kv_cache.grow(request.row, end):
                if self._in_flight:
                    return None
                preempted.append(self._preempt_last())
        return preempted

    @property
    def _in_flight(self) -> bool:
        return self.kv_cache.pool.ended < self.kv_cache.pool.launched

    def _preempt_for_waiting(self) -> bool:
        """Free what the first waiting request needs if less important ones hold it; False: not while a step runs."""
        while self.waiting and self.running and self.waiting[0].priority < self.running[-1].priority:
            first = self.waiting[0]
            needed = self.kv_cache.num_pages_for(len(first.token_ids))
            if self.kv_cache.has_free_row and needed <= self.kv_cache.pool.num_available:
                break
            if self._in_flight:
                return False
            self._preempt_last()
        return True

    def _preempt_last(self) -> Request:
        last = self.running[-1]
        self.remove(last)
        last.num_preemptions += 1
        self.num_preempted += 1
        insort(self.waiting, last, key=_ORDER)
        return last

    def _verify(
        self, decodes: I32, drafts: Mapping[Request, tuple[int, ...]], budget: _Budget
    ) -> tuple[I32, list[Chunk]]:
        """Return the rows that decode without drafts, and the verifications of the others."""
        is_plain = np.ones(len(decodes), np.bool_)
        chunks: list[Chunk] = []
        for index, request in enumerate(self.requests_of(decodes)):
            found = drafts.get(request, ())[: min(budget.tokens, budget.rows)]
            if found:
                budget.tokens -= len(found)
                budget.rows -= len(found)
                chunks.append(Chunk(request, int(self.computed[request.row]), 1 + len(found), True, found))
                is_plain[index] = False
        return decodes.compress(is_plain), chunks

    def _admit(self, budget: _Budget, chunks: list[Chunk]) -> list[Request]:
        """Move requests from the queue to the running ones while budget, rows and pages last."""
        admitted: list[Request] = []
        index = 0
        while index < len(self.waiting) and budget.tokens and budget.rows:
            request = self.waiting[index]
            if self._waits_for_leader(request):
                index += 1
                continue
            if not self._open(request):
                break
            del self.waiting[index]
            insort(self.running, request, key=_ORDER)
            admitted.append(request)
            chunk = self._take(request, budget)
            assert chunk is not None
            chunks.append(chunk)
        return admitted

    def _waits_for_leader(self, request: Request) -> bool:
        """Whether the pages that a request is going to share are being computed."""
        leader = request.leader
        if leader is None or leader.row is None:
            return False
        shared = (request.num_prompt_tokens - 1) // self.kv_cache.page_size
        return self.kv_cache.num_remembered(leader.row) < shared

    def _open(self, request: Request) -> bool:
        """Give a request a row; False if there is none, or too few pages."""
        if not self.kv_cache.has_free_row:
            return False
        prefix: list[int] = []
        if not request.wants_prompt_logprobs:
            prefix = self.kv_cache.find_prefix(request.token_ids, request.cache_salt)
        num_tokens = len(request.token_ids)
        row = self.kv_cache.open(num_tokens, prefix, request.cache_salt, request.priority)
        if row is None:
            return False
        request.row, self._by_row[row], self._rows = row, request, None
        self.known[row], self.limit[row] = num_tokens, request.max_cached_tokens
        self.computed[row] = len(prefix) * self.kv_cache.page_size
        return True

    def _take(self, request: Request, budget: _Budget) -> Chunk | None:
        row = request.row
        assert row is not None
        return budget.take(request, int(self.computed[row]), int(min(self.known[row], self.limit[row])))

    def _close(self, request: Request) -> None:
        assert request.row is not None
        self.kv_cache.close(request.row)
        self._by_row[request.row], self._rows = None, None
        request.row = None
