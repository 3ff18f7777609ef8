"""From the scheduler's decision to all that a step needs and says: the batch, and whose its results will be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.scheduler import Chunk, Schedule, Scheduler
from warploom.runtime.step_batch import Layout, StepBatch, counting, lay_out

I32 = NDArray[np.int32]


_NOTHING: I32 = np.empty(0, np.int32)
_NO_SCORES: tuple[list[tuple[Request, int]], I32, I32] = ([], _NOTHING, _NOTHING)


class StepPlan(NamedTuple):
    """One step, ready to be launched.

    Attributes:
        token_sources: see `Device.launch`.
        sampled: whose tokens the first rows of its result are; `rows`: theirs.
        scored: whose prompts the following rows are about, and how many of them.
        filled: whose pages it fills, and how many tokens of each are in the cache when it has ended.
    """

    batch: StepBatch
    token_sources: I32 | None
    sampled: list[Request]
    rows: I32
    scored: list[tuple[Request, int]]
    filled: list[tuple[Request, int]]


class StepPlanner:
    """Plans steps, and knows where the device has the tokens that the host does not know yet."""

    def __init__(self, scheduler: Scheduler, sampler: SamplerTable) -> None:
        self._scheduler, self._sampler, self._kv_cache = scheduler, sampler, scheduler.kv_cache
        self._sources: I32 = np.full(len(scheduler.known), -1, np.int32)  # by row: its place in the last result

    def plan(self, schedule: Schedule) -> StepPlan:
        """Return the plan of a step that computes something."""
        self._admit(schedule.admitted)
        decodes, chunks, scheduler = schedule.decodes, schedule.chunks, self._scheduler
        num_decodes = len(decodes)
        layout = lay_out(decodes, scheduler.computed.take(decodes), chunks, self._kv_cache)
        requests = scheduler.requests_of(layout.rows)
        token_ids, sources = self._token_ids(layout, requests, num_decodes)
        places, sampled = counting(num_decodes), requests
        if chunks:
            sampling = [num_decodes + index for index, chunk in enumerate(chunks) if chunk.samples]
            places = np.concatenate([places, np.array(sampling, np.int32)])
            sampled = requests[:num_decodes] + [requests[place] for place in sampling]
        rows, known = layout.rows.take(places), layout.context_lens.take(places)
        logit_rows = layout.query_start[1:].take(places) - np.int32(1)
        scored, score_rows, forced = _scored(chunks, layout.query_start[num_decodes:]) if chunks else _NO_SCORES
        if scored:
            logit_rows = np.concatenate([logit_rows, score_rows])
        reports = bool(self._sampler.num_top.take(rows).any())
        batch = StepBatch(
            token_ids=token_ids,
            positions=layout.positions,
            slots=layout.slots,
            page_table=layout.page_table,
            query_start=layout.query_start,
            context_lens=layout.context_lens,
            logit_rows=logit_rows,
            sampling=self._sampler.gather(rows, known, forced) if len(logit_rows) else None,
            top_logprobs=reports or any(request.params.prompt_logprobs for request, _ in scored),
        )
        return StepPlan(batch, sources, sampled, rows, scored, self._filled(layout, requests))

    def launched(self, plan: StepPlan) -> None:
        """Note that a step has been launched."""
        if len(plan.batch.logit_rows):
            self._sources.fill(-1)
            self._sources[plan.rows] = counting(len(plan.rows))

    def forget_sources(self) -> None:
        """The device has no tokens that the host lacks."""
        self._sources.fill(-1)

    def _admit(self, admitted: Sequence[Request]) -> None:
        """Write the rows of requests that have just been given one."""
        for request in admitted:
            self._sampler.admit(request)
            self._sources[request.row] = -1

    def _token_ids(self, layout: Layout, requests: Sequence[Request], num_decodes: int) -> tuple[I32, I32 | None]:
        """Return the step's tokens as far as the host knows them, and where the device has the others; both [T]."""
        tokens: I32 = np.zeros(len(layout.positions), np.int32)
        sources: I32 = np.full(len(tokens), -1, np.int32)
        sources[:num_decodes] = self._sources.take(layout.rows[:num_decodes])
        for index in np.flatnonzero(sources[:num_decodes] < 0).tolist():
            tokens[index] = requests[index].token_ids[layout.positions[index]]
        starts = layout.query_start.tolist() if num_decodes < len(requests) else ()
        for index in range(num_decodes, len(requests)):
            end = int(layout.context_lens[index])
            begin, stop = starts[index], starts[index + 1]
            tokens[begin:stop] = requests[index].token_ids[end - (stop - begin) : end]
        return tokens, sources if num_decodes and sources[:num_decodes].max() >= 0 else None

    def _filled(self, layout: Layout, requests: Sequence[Request]) -> list[tuple[Request, int]]:
        """The sequences that a step makes reach or pass the end of a page, and how far."""
        counts = layout.query_start[1:] - layout.query_start[:-1]
        places = np.flatnonzero(layout.context_lens % self._kv_cache.page_size < counts).tolist()
        return [(requests[place], int(layout.context_lens[place])) for place in places]


def _scored(chunks: Sequence[Chunk], starts: I32) -> tuple[list[tuple[Request, int]], I32, I32]:
    """Which prompts' tokens a step finds the log-probabilities of: whose and how many, the rows [F], the tokens [F].

    Args:
        starts: where each chunk begins in the step.
    """
    scored: list[tuple[Request, int]] = []
    rows: list[int] = []
    tokens: list[int] = []
    for (request, start, num_tokens, _), first in zip(chunks, starts.tolist(), strict=False):
        if not request.wants_prompt_logprobs:
            continue
        begin = max(start, len(request.prompt_logprobs))
        end = min(start + num_tokens, request.num_prompt_tokens - 1)
        if begin < end:
            scored.append((request, end - begin))
            rows += range(first + begin - start, first + end - start)
            tokens += request.token_ids[begin + 1 : end + 1]
    return scored, np.array(rows, np.int32), np.array(tokens, np.int32)
