"""Speculative decoding: drafts of the next tokens, verified in one step, and why what comes out is the same.

A request that decodes brings its last token and k drafts to a step, which samples after each of them: with the
parameters, the noise and the state (penalties, bans, guide) that plain decoding would have there if the drafts before
were its output. The first token sampled is output in any case. If it equals the first draft, then the second was
sampled behind the right tokens, and is output too; and so on.

So nothing is accepted or rejected by chance: what is output is what plain decoding samples, token by token. Noise of
@sample is a function of (seed, position, token), so greedy and seeded answers are equal to plain ones wherever logits
are (on the CPU, to the last bit; on a GPU, where kernels round by the shape of a step as they do in every batch, up to
that). And without a seed they have its distribution, whatever proposes drafts: a draft never enters what is sampled at
its position. The accept-and-resample rule of Leviathan et al. (https://arxiv.org/abs/2211.17192) is needed where a
draft's own randomness becomes that of the output. It accepts more of a draft model's samples, unless these are drawn
with the same noise as the model's, as here: two argmaxes of logits plus the same Gumbel noise agree more often than
independent draws (https://arxiv.org/abs/2408.07978 compares the couplings).

K and V of drafts that were not accepted are written over by the next step. What a page holds is remembered only as far
as it was accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from warploom.errors import EngineError
from warploom.runtime.draft_model import Drafter, DraftModel
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.prompt_lookup import PromptLookup
from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.scheduler import Scheduler
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_plan import Verification
from warploom.runtime.step_reader import StepReader


class Proposer(Protocol):
    """Where drafts come from."""

    def can_draft(self, request: Request) -> bool:
        """Whether it is worth to wait for the last tokens of a running request, to draft after them."""
        ...

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """Return drafts after all tokens of running requests, at most as many as wanted of each, which have pages."""
        ...


class Speculator:
    """Decides which requests get drafts, and how many.

    A request gets up to `num_speculative_tokens`, by its own pace (`DraftPace`); and no more than its share of the
    tokens that a step computes in about the time of one (`cheap_tokens`): beyond, a step takes longer for every draft,
    accepted or not. So a large batch gets none.

    Requests with logits processors get none: those are asked for what was really sampled. Where a guide leaves no
    choice (the names in a JSON object), what it forces is drafted, whatever the pace.

    Args:
        stats: what becomes of drafts is counted there.
        cheap_tokens: see `Device`.
    """

    def __init__(
        self,
        config: SpeculativeConfig,
        proposer: Proposer,
        scheduler: Scheduler,
        sampler: SamplerTable,
        stats: EngineStats,
        cheap_tokens: int,
    ) -> None:
        self._config, self._proposer, self._scheduler, self._sampler = config, proposer, scheduler, sampler
        self._stats, self._cheap_tokens = stats, cheap_tokens
        stats.accepted_by_position = (0,) * config.num_speculative_tokens
        self._forced: set[Request] = set()  # whose drafts under way are those of a guide

    def waits(self) -> bool:
        """Whether the host should know the tokens of the step in flight before it plans the next one, to draft."""
        return any(self._proposer.can_draft(request) for request, most in self._rooms() if _length(request, most))

    def drafts(self) -> dict[Request, tuple[int, ...]]:
        """Return what the next step should verify; the host knows all tokens."""
        proposed: dict[Request, list[int]] = {}
        wanted: list[tuple[Request, int]] = []
        self._forced.clear()
        for request, most in self._rooms():
            forced = self._sampler.forced(request)[:most]
            number = self._scheduler.reserve(request, len(forced) or _length(request, most))
            if number and forced:
                proposed[request] = forced[:number]
                self._forced.add(request)
            elif number:
                wanted.append((request, number))
        if wanted:
            drafted = self._proposer.draft(wanted)
            proposed |= {request: drafts for (request, _), drafts in zip(wanted, drafted, strict=True)}
        usable = {request: self._usable(request, drafts) for request, drafts in proposed.items()}
        return {request: drafts for request, drafts in usable.items() if drafts}

    def verify(self, one: Verification, reader: StepReader) -> int:
        """Return how many drafts of a request that goes on were accepted; they count as its tokens from now on."""
        accepted = 0
        for row, draft in enumerate(one.drafts, one.first):
            if reader.tokens[row] != draft or row in reader.unusable:
                break
            accepted += 1
        stats = self._stats
        stats.drafts += 1
        stats.draft_tokens += len(one.drafts)
        stats.accepted_tokens += accepted
        by_position = enumerate(stats.accepted_by_position)
        stats.accepted_by_position = tuple(number + (place < accepted) for place, number in by_position)
        pace = one.request.pace
        pace.count(len(one.drafts), accepted)
        if one.request not in self._forced:
            pace.verified(len(one.drafts), accepted, len(one.request.token_ids) + accepted + 1)
        self._scheduler.accepted(one.request, accepted)
        return accepted

    def _rooms(self) -> list[tuple[Request, int]]:
        """Running requests that may get drafts, and how many at most."""
        scheduler, config = self._scheduler, self._config
        rows = scheduler.rows
        number = len(rows)
        if not number or number > (config.disable_by_batch_size or number):
            return []
        share = min(config.num_speculative_tokens, self._cheap_tokens // number - 1)
        if share <= 0:
            return []
        room = scheduler.limit.take(rows) - scheduler.known.take(rows)
        room[scheduler.known.take(rows) - scheduler.computed.take(rows) != 1] = 0  # it computes its prompt
        places = np.flatnonzero(room > 0).tolist()
        rooms = [(scheduler.running[place], min(share, int(room[place]))) for place in places]
        return [(request, most) for request, most in rooms if not request.params.logits_processors]

    def _usable(self, request: Request, drafts: list[int]) -> tuple[int, ...]:
        """Drafts up to an end token, which nothing follows, and as far as the request's guide allows them."""
        end = next((index for index, token in enumerate(drafts) if token in request.end_token_ids), len(drafts))
        return tuple(self._sampler.allowed(request, drafts[:end]))


def _length(request: Request, most: int) -> int:
    """Return how many drafts a request should be given, at its own pace."""
    return min(most, request.pace.length(len(request.token_ids)))


def make_proposer(
    config: SpeculativeConfig, scheduler: Scheduler, sampler: SamplerTable, drafter: Drafter | None
) -> Proposer:
    """Return what a configuration drafts with, for the running requests of a scheduler."""
    if drafter is not None:
        return DraftModel(drafter, sampler)
    if config.method == "draft_model":
        raise EngineError(
            "The engine has no draft model", expected="a drafter", fix="speculate with the method 'ngram'"
        )
    return PromptLookup(len(scheduler.known), config.prompt_lookup_max, config.prompt_lookup_min)
