"""An engine whose requests may be beam searches.

A search is made of ordinary requests for one token each, with the likeliest tokens reported:

    prompt ──► root ──► [ beam 0 | beam 1 | … ] ──► [ beam 0 | beam 1 | … ] ──► … ──► answers

So beams are batched with whatever else runs, and may wait and be preempted like it. They share pages by reference: a
beam finds those of the beam that it continues in the prefix cache, and computes again what the last page holds. What
users hold are requests, too, one per answer: nothing is computed for them, and each gets all of its tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from warploom.errors import InvalidRequestError
from warploom.runtime.beam_search import BeamSearch, BeamSearchParams, Hypothesis
from warploom.runtime.device import Device
from warploom.runtime.engine import Engine
from warploom.runtime.request import Request, TokenLogprobs
from warploom.runtime.sampling_params import MAX_LOGPROBS, SamplingParams
from warploom.runtime.step_outputs import RequestOutput


class Search:
    """A search under way.

    Attributes:
        answers: the requests of its users, the best answer's first.
        tops: by the requests of its running beams, in their order: the likeliest next tokens, once they are known.
        params: of a beam's request; `root_params`: of the first one's, which is the prompt.
    """

    def __init__(self, beams: BeamSearch, answers: list[Request]) -> None:
        self.beams, self.answers = beams, answers
        self.tops: dict[int, TokenLogprobs | None] = {}
        self.params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=beams.num_top)
        self.root_params = replace(self.params, prompt_logprobs=answers[0].params.prompt_logprobs)

    @property
    def missing(self) -> set[int]:
        """The beams whose next tokens are not known."""
        return {beam for beam, top in self.tops.items() if top is None}

    @property
    def prompt(self) -> list[int]:
        """The tokens that all beams begin with."""
        return self.answers[0].token_ids


class BeamEngine(Engine):
    """See `Engine`. `new_search` makes requests whose answers are searched for."""

    def __init__(self, device: Device, *, vocab_size: int, **options: Any) -> None:
        super().__init__(device, vocab_size=vocab_size, **options)
        self._most_tops = min(MAX_LOGPROBS, vocab_size)
        self._answers: dict[int, Request] = {}  # of searches
        self._searches: dict[int, Search] = {}  # by the requests of their running beams

    def new_search(
        self, prompt_token_ids: Sequence[int], params: BeamSearchParams, *, priority: int = 0, cache_salt: str = ""
    ) -> list[Request]:
        """Return a request per answer, the best one's first; the search begins when all of them have been added.

        Raises:
            InvalidRequestError: as `new_request`, or there are too many end tokens for so many beams.
        """
        answers = [
            self.new_request(prompt_token_ids, params.answer_params(index), priority=priority, cache_salt=cache_salt)
            for index in range(params.num_answers)
        ]
        ends = answers[0].end_token_ids
        if params.beam_width + len(ends) > self._most_tops:
            raise InvalidRequestError(
                "The parameter beam_width is too large",
                expected=f"at most {self._most_tops - len(ends)} beside {len(ends)} end tokens",
                found=str(params.beam_width),
                param="beam_width",
            )
        search = Search(BeamSearch(params, ends, answers[0].max_tokens), answers)
        for answer in answers:
            answer.search = search
        return answers

    def __contains__(self, request_id: int) -> bool:
        """See `Engine`."""
        return request_id in self._answers or super().__contains__(request_id)

    def add(self, request: Request) -> None:
        """See `Engine`."""
        search = request.search
        if search is None:
            super().add(request)
            return
        self._answers[request.id] = request
        if request is search.answers[-1]:
            self._extend(search)

    def abort(self, request_id: int) -> None:
        """See `Engine`; a search goes on for as long as one of its answers is wanted."""
        answer = self._answers.pop(request_id, None)
        if answer is None:
            super().abort(request_id)
            return
        answer.is_done = True
        search = answer.search
        assert search is not None
        if all(one.is_done for one in search.answers):
            self._conclude(search)

    def step(self) -> list[RequestOutput]:
        """See `Engine`."""
        try:
            outputs = super().step()
        except Exception:
            for search in {*self._searches.values()}:
                if search.missing - self._requests.keys():
                    self._conclude(search)
            raise
        if not self._searches:
            return outputs
        return [given for output in outputs for given in self._given(output)]

    def check(self) -> None:
        """See `Engine`."""
        super().check()
        searches = {*self._searches.values()}
        assert {beam for search in searches for beam in search.tops} == self._searches.keys(), "beams"
        assert all(search.missing and search.missing <= self._requests.keys() for search in searches), "beams"

    def _note_start(self, request: Request) -> None:
        """Of a search, the prompt counts, and not the beams that continue it."""
        search = self._searches.get(request.id)
        if search is None:
            super()._note_start(request)
        elif request.num_prompt_tokens == len(search.prompt):
            super()._note_start(request)
            for answer in search.answers:
                answer.started_at, answer.num_cached_tokens = request.started_at, request.num_cached_tokens

    def _given(self, output: RequestOutput) -> list[RequestOutput]:
        """What users are given of an output; that of a beam may be the last one that its search waits for."""
        search = self._searches.get(output.request_id)
        if search is None:
            return [output]
        if output.logprobs is None:  # it was unusable
            return [output._replace(request_id=answer.id) for answer in self._conclude(search)]
        search.tops[output.request_id] = output.logprobs[0]
        if search.missing:
            return []
        search.beams.advance([top for top in search.tops.values() if top])
        self._let_go_of_beams(search)
        if not search.beams.has_ended:
            self._extend(search)
            return []
        found = {answer.id: one for answer, one in zip(search.answers, search.beams.finished, strict=False)}
        return [_output(answer, found[answer.id]) for answer in self._conclude(search)]

    def _extend(self, search: Search) -> None:
        """Queue the running beams, in the place of their search."""
        first = search.answers[0]
        for beam in search.beams.running:
            request = Request(
                id=next(self._ids),
                token_ids=[*search.prompt, *beam.token_ids],
                params=search.params if beam.token_ids else search.root_params,
                max_tokens=1,
                end_token_ids=frozenset(),
                seed=0,
                priority=first.priority,
                cache_salt=first.cache_salt,
                arrival=first.id,
            )
            if not beam.token_ids:
                request.prompt_logprobs = first.prompt_logprobs
            search.tops[request.id] = None
            self._searches[request.id] = search
            super().add(request)

    def _conclude(self, search: Search) -> list[Request]:
        """Let go of a search; return those of its answers that somebody waits for."""
        self._let_go_of_beams(search)
        wanted = [answer for answer in search.answers if not answer.is_done]
        for answer in wanted:
            answer.is_done = True
            self._answers.pop(answer.id, None)
        return wanted

    def _let_go_of_beams(self, search: Search) -> None:
        """Forget the requests of beams, finished or not."""
        for beam in search.tops:
            del self._searches[beam]
            super().abort(beam)
        search.tops.clear()


def _output(answer: Request, found: Hypothesis) -> RequestOutput:
    """All tokens of an answer at once."""
    answer.score = found.total
    last = found.token_ids[-1]
    stops = last in answer.end_token_ids
    logprobs = None if answer.params.logprobs is None else found.logprobs
    return RequestOutput(answer.id, found.token_ids, logprobs, "stop" if stops else "length", last if stops else None)
