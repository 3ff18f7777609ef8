"""Which tokens of which requests the next step computes.

There are no phases: a request has tokens that the model has seen and tokens that it has not; a step hands out one
budget of tokens. Decoding requests come first (one token each), then prompts in order of arrival, cut in chunks
where the budget ends, then waiting requests are admitted in order of arrival.

Admission takes pages for all tokens known so far; later pages are taken one at a time as the output grows. When
they run out, the youngest running request is preempted: its pages are freed and it waits, at the front, to be
computed again. So the running requests are always the oldest ones, the oldest of all never waits for another, and
each request that fits in the cache alone finishes. (The policy is vLLM's; its chunked prefill is from Sarathi-Serve,
https://arxiv.org/abs/2403.02310.)
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import NamedTuple

from warploom.errors import InvalidRequestError
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request


class Chunk(NamedTuple):
    """The next `num_tokens` uncomputed tokens of one request."""

    request: Request
    num_tokens: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends at the request's last token, so that the next one is sampled."""
        return self.num_tokens == self.request.num_remaining


class Schedule(NamedTuple):
    """One step: what runs, which of it has just been given a row, which requests lost theirs."""

    chunks: list[Chunk]
    admitted: list[Request]
    preempted: list[Request]


class Scheduler:
    """Continuous batching over a KV cache.

    Args:
        max_batched_tokens: tokens of one step; at least `max_seqs`, so that every running request can decode.
        max_seqs: requests running at once.
    """

    def __init__(self, kv_cache: KVCache, *, max_seqs: int, max_batched_tokens: int) -> None:
        assert 0 < max_seqs <= max_batched_tokens
        self.kv_cache = kv_cache
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._max_seqs, self._max_batched_tokens = max_seqs, max_batched_tokens

    def add(self, request: Request) -> None:
        """Queue a request; InvalidRequestError if the cache could not hold it even alone."""
        if request.max_cached_tokens > self.kv_cache.max_tokens:
            raise InvalidRequestError(
                "The request does not fit in the KV cache",
                expected=f"prompt and output of at most {self.kv_cache.max_tokens + 1} tokens",
                found=f"{request.num_prompt_tokens} prompt + {request.max_tokens} output tokens",
                fix="shorten the prompt, lower max_tokens, or give the KV cache more memory",
            )
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, finished or not, and free what it holds."""
        if request.row is None:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self._close(request)

    def schedule(self) -> Schedule:
        """Choose the next step's work. The caller advances `num_computed` once the step has run."""
        preempted = self._make_room()
        chunks: list[Chunk] = []
        budget = self._max_batched_tokens
        for request in sorted(self.running, key=lambda request: request.num_remaining > 1):
            budget -= self._take(request, budget, chunks)
        return Schedule(chunks, self._admit(budget, chunks), preempted)

    def check(self) -> None:
        """Assert the invariants: order of arrival, rows, room for every computed token, exact page accounts."""
        everyone = [*self.running, *self.waiting]
        assert all(older.id < younger.id for older, younger in pairwise(everyone)), "order of arrival"
        assert len(self.running) <= self._max_seqs
        assert all(request.row is None and request.num_computed == 0 for request in self.waiting)
        assert {request.row for request in self.running} == self.kv_cache.rows, "rows"
        for request in self.running:
            assert request.row is not None
            assert request.num_computed <= self.kv_cache.capacity(request.row), "room"
            assert request.num_remaining > 0
        self.kv_cache.check()

    def _make_room(self) -> list[Request]:
        """Give every running request pages for its known tokens, oldest first; preempt the youngest for it."""
        preempted: list[Request] = []
        for request in self.running.copy():
            while request.row is not None and not self.kv_cache.grow(request.row, len(request.token_ids)):
                youngest = self.running.pop()
                self._close(youngest)
                self.waiting.appendleft(youngest)
                preempted.append(youngest)
        return preempted

    def _admit(self, budget: int, chunks: list[Chunk]) -> list[Request]:
        """Move requests from the front of the queue to the running ones while budget, rows and pages last."""
        admitted: list[Request] = []
        while self.waiting and budget and len(self.running) < self._max_seqs:
            request = self.waiting[0]
            request.row = self.kv_cache.open(len(request.token_ids))
            if request.row is None:
                break
            self.running.append(self.waiting.popleft())
            admitted.append(request)
            budget -= self._take(request, budget, chunks)
        return admitted

    @staticmethod
    def _take(request: Request, budget: int, chunks: list[Chunk]) -> int:
        num_tokens = min(request.num_remaining, budget)
        if num_tokens:
            chunks.append(Chunk(request, num_tokens))
        return num_tokens

    def _close(self, request: Request) -> None:
        assert request.row is not None
        self.kv_cache.close(request.row)
        request.row, request.num_computed = None, 0
