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


class Verification(NamedTuple):
    """Drafts of a request, and the row of the result that says what comes where the first one is. As long as a row
    says the same as the draft, the next row says what comes after it.
    """

    request: Request
    drafts: tuple[int, ...]
    first: int

    @property
    def end(self) -> int:
        """One more than its last row."""
        return self.first + 1 + len(self.drafts)


class SampledRows(NamedTuple):
    """Rows of logits that are sampled; see `SamplerTable.gather`. N of them."""

    logit_rows: I32  # [N]
    rows: I32  # [N]
    known: I32  # [N]
    drafts: list[tuple[int, ...]]  # N, or none


class StepPlan(NamedTuple):
    """One step, ready to be launched.

    Attributes:
        token_sources: see `Device.launch`.
        batch: but for `sampling`.
        sampled: whose tokens the first rows of its result are.
        rows: those that are sampled for outputs; `forced`: tokens of the rows behind them.
        verified: what the rows after those are about.
        scored: whose prompts the rows after those are about, and how many of them.
        filled: whose pages it fills, and how many tokens of each, with drafts, are in the cache when it has ended.
    """

    batch: StepBatch
    token_sources: I32 | None
    sampled: list[Request]
    rows: SampledRows
    forced: I32
    verified: list[Verification]
    scored: list[tuple[Request, int]]
    filled: list[tuple[Request, int]]

    @property
    def num_sampled(self) -> int:
        """Rows of the result before the scored ones."""
        return self.verified[-1].end if self.verified else len(self.sampled)


class StepPlanner:
    """Plans steps, and knows where the device has the tokens that the host does not know yet."""

    def __init__(self, scheduler: Scheduler, sampler: SamplerTable) -> None:
        self._scheduler, self._sampler, self._kv_cache = scheduler, sampler, scheduler.kv_cache
        self._sources: I32 = np.full(len(scheduler.known), -1, np.int32)  # by row: its place in the last result

    def plan(self, schedule: Schedule) -> StepPlan:
        """Return the plan of a step that computes something; how it samples is left to `with_sampling`."""
        self._admit(schedule.admitted)
        decodes, chunks, scheduler = schedule.decodes, schedule.chunks, self._scheduler
        num_decodes = len(decodes)
        layout = lay_out(decodes, scheduler.computed.take(decodes), chunks, self._kv_cache)
        requests = scheduler.requests_of(layout.rows)
        token_ids, sources = self._token_ids(layout, requests, chunks)
        places, sampled = counting(num_decodes), requests
        if chunks:
            sampling = [num_decodes + i for i, chunk in enumerate(chunks) if chunk.samples and not chunk.drafts]
            places = np.concatenate([places, np.array(sampling, np.int32)])
            sampled = requests[:num_decodes] + [requests[place] for place in sampling]
        rows, known = layout.rows.take(places), layout.context_lens.take(places)
        plain = sampled_rows = SampledRows(layout.query_start[1:].take(places) - np.int32(1), rows, known, [])
        verified = _verified(chunks, len(sampled))
        if verified:
            sampled_rows = _with_drafts(plain, verified, layout, num_decodes)
        logit_rows = sampled_rows.logit_rows
        scored, score_rows, forced = _scored(chunks, layout.query_start[num_decodes:]) if chunks else _NO_SCORES
        if scored:
            logit_rows = np.concatenate([logit_rows, score_rows])
        reports = bool(self._sampler.num_top.take(sampled_rows.rows).any())
        batch = StepBatch(
            token_ids=token_ids,
            positions=layout.positions,
            slots=layout.slots,
            page_table=layout.page_table,
            query_start=layout.query_start,
            context_lens=layout.context_lens,
            logit_rows=logit_rows,
            sampling=None,
            top_logprobs=reports or any(request.params.prompt_logprobs for request, _ in scored),
        )
        filled = self._filled(layout, requests)
        return StepPlan(batch, sources, sampled, sampled_rows, forced, verified, scored, filled)

    def with_sampling(self, plan: StepPlan) -> StepBatch:
        """Return the batch of a plan, with the sampling of what the host knows now."""
        if not len(plan.batch.logit_rows):
            return plan.batch
        return plan.batch._replace(sampling=self._sampler.gather(*plan.rows[1:], plan.forced))

    def launched(self, plan: StepPlan) -> None:
        """Note that a step has been launched."""
        if len(plan.batch.logit_rows):
            self._sources.fill(-1)
            rows = plan.rows.rows[: len(plan.sampled)]
            self._sources[rows] = counting(len(rows))

    def forget_sources(self) -> None:
        """The device has no tokens that the host lacks."""
        self._sources.fill(-1)

    def _admit(self, admitted: Sequence[Request]) -> None:
        """Write the rows of requests that have just been given one."""
        for request in admitted:
            self._sampler.admit(request)
            self._sources[request.row] = -1

    def _token_ids(
        self, layout: Layout, requests: Sequence[Request], chunks: Sequence[Chunk]
    ) -> tuple[I32, I32 | None]:
        """Return the step's tokens as far as the host knows them, and where the device has the others; both [T]."""
        num_decodes = len(requests) - len(chunks)
        tokens: I32 = np.zeros(len(layout.positions), np.int32)
        sources: I32 = np.full(len(tokens), -1, np.int32)
        sources[:num_decodes] = self._sources.take(layout.rows[:num_decodes])
        for index in np.flatnonzero(sources[:num_decodes] < 0).tolist():
            tokens[index] = requests[index].token_ids[layout.positions[index]]
        begin = num_decodes
        for request, start, num_tokens, _, drafts in chunks:
            known = request.token_ids[start : start + num_tokens]
            tokens[begin : begin + num_tokens] = [*known, *drafts] if drafts else known
            begin += num_tokens
        return tokens, sources if num_decodes and sources[:num_decodes].max() >= 0 else None

    def _filled(self, layout: Layout, requests: Sequence[Request]) -> list[tuple[Request, int]]:
        """The sequences that a step makes reach or pass the end of a page, and how far."""
        counts = layout.query_start[1:] - layout.query_start[:-1]
        places = np.flatnonzero(layout.context_lens % self._kv_cache.page_size < counts).tolist()
        return [(requests[place], int(layout.context_lens[place])) for place in places]


def _verified(chunks: Sequence[Chunk], first: int) -> list[Verification]:
    """The verifications of a step; their rows of the result begin at `first`."""
    verified: list[Verification] = []
    for chunk in chunks:
        if not chunk.drafts:
            break
        verified.append(Verification(chunk.request, chunk.drafts, first))
        first = verified[-1].end
    return verified


def _with_drafts(plain: SampledRows, verified: Sequence[Verification], layout: Layout, num_decodes: int) -> SampledRows:
    """Return the rows of requests without drafts, and those of verifications, which follow the decodes in the step."""
    end = num_decodes + len(verified)
    starts = layout.query_start[num_decodes : end + 1]
    tokens = np.arange(starts[0], starts[-1], dtype=np.int32)
    return SampledRows(
        np.concatenate([plain.logit_rows, tokens]),
        np.concatenate([plain.rows, np.repeat(layout.rows[num_decodes:end], np.diff(starts))]),
        np.concatenate([plain.known, layout.positions[tokens] + np.int32(1)]),
        [()] * len(plain.rows) + [one.drafts[:length] for one in verified for length in range(1 + len(one.drafts))],
    )


def _scored(chunks: Sequence[Chunk], starts: I32) -> tuple[list[tuple[Request, int]], I32, I32]:
    """Which prompts' tokens a step finds the log-probabilities of: whose and how many, the rows [F], the tokens [F].

    Args:
        starts: where each chunk begins in the step.
    """
    scored: list[tuple[Request, int]] = []
    rows: list[int] = []
    tokens: list[int] = []
    for (request, start, num_tokens, *_), first in zip(chunks, starts.tolist(), strict=False):
        if not request.wants_prompt_logprobs:
            continue
        begin = max(start, len(request.prompt_logprobs))
        end = min(start + num_tokens, request.num_prompt_tokens - 1)
        if begin < end:
            scored.append((request, end - begin))
            rows += range(first + begin - start, first + end - start)
            tokens += request.token_ids[begin + 1 : end + 1]
    return scored, np.array(rows, np.int32), np.array(tokens, np.int32)
