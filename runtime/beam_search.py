"""Beam search: the likeliest continuations of a prompt, looked for `beam_width` at a time.

Every step extends each running beam by its likeliest tokens, and keeps the best `beam_width` of all extensions. One
that ends is put aside as finished, with the score

    sum of the tokens' log-probabilities / (number of tokens, the end token included) ** length_penalty

Which beams go on, when a search ends and what it finds are those of transformers' `generate(num_beams=...)`
(`GenerationMixin._beam_search`, transformers 5.23), so that the two give the same answers for the same logits. (vLLM
counts the prompt's tokens, too, in the length.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from warploom.runtime.request import TokenLogprobs
from warploom.runtime.sampling_params import (
    MAX_LOGPROBS,
    SamplingParams,
    check_float,
    check_integer,
    invalid_parameter,
)

_MAX_LENGTH_PENALTY = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamSearchParams:
    """What a request asks of beam search.

    Attributes:
        beam_width: beams that run at once; with the number of end tokens at most 20.
        n: answers that are given, the best first; None: `beam_width`.
        max_tokens: most output tokens; None: until the context is full.
        length_penalty: above 0 favours long answers, below short ones; 0: scores are plain sums (-10..10).
        early_stopping: when a search ends that has found `beam_width` answers. True: at once. False: when the best
            running beam would be worse than all of them if it ended now. "never": when it would be worse even if it
            reached the length that is best for its score at no cost (with a `length_penalty` of 0: the exact search).
        ignore_eos: the model's end tokens do not end an answer.
        stop_token_ids: tokens that end an answer, beside the model's end tokens.
        logprobs, prompt_logprobs, skip_special_tokens: as those of `SamplingParams`.

    Raises:
        InvalidRequestError: on construction, naming the field, what is allowed and what was given.
    """

    beam_width: int
    n: int | None = None
    max_tokens: int | None = 256
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        check_integer("beam_width", self.beam_width, 1, MAX_LOGPROBS)
        check_integer("n", self.n, 1, self.beam_width, optional=True)
        check_float("length_penalty", self.length_penalty, -_MAX_LENGTH_PENALTY, _MAX_LENGTH_PENALTY)
        if self.early_stopping not in (True, False, "never"):
            raise invalid_parameter("early_stopping", "True, False or 'never'", self.early_stopping)
        self.answer_params(0)  # which checks the rest

    @property
    def num_answers(self) -> int:
        """Answers that are given."""
        return self.n or self.beam_width

    @property
    def num_made(self) -> int:
        """Answers that are computed at once."""
        return self.beam_width

    def answer_params(self, index: int) -> SamplingParams:
        """Return what holds for the answer `index` by itself: where it ends, and what is told of it."""
        return SamplingParams(
            temperature=0,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids,
            logprobs=self.logprobs,
            prompt_logprobs=None if index else self.prompt_logprobs,
            skip_special_tokens=self.skip_special_tokens,
        )


class Hypothesis(NamedTuple):
    """A continuation of the prompt.

    Attributes:
        total: sum of its log-probabilities, or its score once it is finished.
        logprobs: one per token, if they are asked for; else empty.
    """

    total: float
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


class BeamSearch:
    """One search, without the model: it says which beams to extend, and is told how.

    Args:
        end_token_ids: tokens that end an answer.
        max_tokens: answers of this length end there.

    Attributes:
        running: what has to be extended, the likeliest first; at first nothing.
        finished: the best answers so far, the best first.
        has_ended: nothing that can be found would change `finished`.
    """

    def __init__(self, params: BeamSearchParams, end_token_ids: frozenset[int], max_tokens: int) -> None:
        self._params, self._end_token_ids, self._max_tokens = params, end_token_ids, max_tokens
        self.running = [Hypothesis(0.0, (), ())]
        self.finished: list[Hypothesis] = []
        self.has_ended = False

    @property
    def num_top(self) -> int:
        """How many of the likeliest tokens `advance` needs: the best extensions that do not end may have each end
        token in front of them.
        """
        return max(self._params.beam_width + len(self._end_token_ids), self._params.logprobs or 0)

    def advance(self, entries: Sequence[TokenLogprobs]) -> None:
        """Extend the running beams by a token.

        Args:
            entries: for each of them the likeliest `num_top` tokens.
        """
        width, num_tokens = self._params.beam_width, len(self.running[0].token_ids) + 1
        extensions = [
            (beam.total + logprob, token, beam, entry)
            for beam, entry in zip(self.running, entries, strict=True)
            for token, logprob in entry.top
        ]
        extensions.sort(key=lambda one: -one[0])
        is_last = num_tokens >= self._max_tokens
        running: list[Hypothesis] = []
        for rank, extension in enumerate(extensions):
            if is_last or extension[1] in self._end_token_ids:
                if rank < width:
                    self._finish(self._extended(*extension))
            elif len(running) < width:
                running.append(self._extended(*extension))
        self.finished = sorted(self.finished, key=lambda one: -one.total)[:width]
        self.running = running
        self.has_ended = is_last or self._is_settled(num_tokens)

    def _extended(self, total: float, token: int, beam: Hypothesis, entry: TokenLogprobs) -> Hypothesis:
        logprobs, wanted = beam.logprobs, self._params.logprobs
        if wanted is not None:
            logprobs = (*logprobs, TokenLogprobs(token, dict(entry.top)[token], entry.top[:wanted]))
        return Hypothesis(total, (*beam.token_ids, token), logprobs)

    def _finish(self, one: Hypothesis) -> None:
        self.finished.append(one._replace(total=one.total / len(one.token_ids) ** self._params.length_penalty))

    def _is_settled(self, num_tokens: int) -> bool:
        """Whether enough is finished, and what runs is not taken to become better."""
        params = self._params
        if len(self.finished) < params.beam_width:
            return False
        grows = params.early_stopping == "never" and params.length_penalty > 0
        length = self._max_tokens if grows else num_tokens
        hope = self.running[0].total / length**params.length_penalty
        return params.early_stopping is True or hope <= self.finished[-1].total
