"""From the tokens of one request to what its user reads: text pieces, and the whole answer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
from msgspec.structs import replace as replace_in

from warploom.runtime.detokenizer import Detokenizer
from warploom.runtime.request import FinishReason, Request, TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.step_outputs import RequestOutput
from warploom.runtime.stop_strings import StopStrings


class Delta(msgspec.Struct, frozen=True):
    """What one step added. (A struct: one is made per event, and a frozen dataclass takes 8 times as long.)

    Attributes:
        text: may be empty, while a character or a possible stop string is incomplete.
        token_ids: the new tokens. logprobs: one per token, or None if not asked for.
        finish_reason: None while more follows; "stop" (end token or stop string), "length" (max_tokens or the
            context is full), "abort" (the model's output was unusable).
        stop_reason: the stop string or the end token of "stop"; what went wrong, for "abort".
        index: which of the request's `n` answers this belongs to.
        prompt_logprobs: with the first delta, if asked for: one per token of the prompt from the second one on.
        metrics: with the last delta of an answer.
        score: with the last delta of an answer that a beam search has found; see `beam_search`.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    index: int = 0
    metrics: Metrics | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Times of one answer, from the moment it was queued, and its tokens.

    Attributes:
        time_to_first_token: seconds. total_time: seconds to the last token.
        tokens_per_second: rate of the tokens after the first; 0 if there is only one.
        queue_time: seconds until its first step was planned.
        num_cached_tokens: prompt tokens that were found in the cache.
        num_draft_tokens, num_accepted_tokens: of speculative decoding: drafted, and of them output.
    """

    time_to_first_token: float
    total_time: float
    tokens_per_second: float
    queue_time: float = 0.0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished answer; the fields are those of its deltas, joined. `index`: which of the prompt's `n`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: list[TokenLogprobs] | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs] | None
    metrics: Metrics
    index: int = 0
    score: float | None = None


class OutputText:
    """Turns the engine's outputs of one request into deltas: text is decoded, and cut before a stop string.

    Args:
        detokenizer: knows the request's prompt.
        index: of the answer, for its deltas.
    """

    def __init__(self, detokenizer: Detokenizer, request: Request, index: int = 0) -> None:
        self._detokenizer, self._request, self._index = detokenizer, request, index
        self._stops = StopStrings(request.params.stop_strings)
        self._num_tokens = 0
        self._first_token_at = self._last_token_at = 0.0

    def note(self, ended: bool) -> None:
        """Note the time of the first or last token; `push` does it, if it was not done before."""
        if not self._first_token_at:
            self._first_token_at = time.perf_counter()
        if ended and not self._last_token_at:
            self._last_token_at = time.perf_counter()

    def push(self, output: RequestOutput) -> Delta:
        """Return the delta of one output. Its finish reason may be "stop" where the engine's is not: then a stop
        string was found, and the caller has to end the request.
        """
        prompt_logprobs = None
        if self._num_tokens == 0 and self._request.params.prompt_logprobs is not None:
            prompt_logprobs = tuple(self._request.prompt_logprobs)
        ended = output.finish_reason is not None
        self.note(ended)
        self._num_tokens += len(output.token_ids)
        visible = output.token_ids[:-1] if output.finish_reason == "stop" else output.token_ids  # no end token
        text = self._push(self._detokenizer.push(visible))
        if ended and self._stops.matched is None:
            text += self._push(self._detokenizer.finish())
        finish_reason, stop_reason = output.finish_reason, output.stop_reason
        if self._stops.matched is not None:
            finish_reason, stop_reason = "stop", self._stops.matched
        elif ended:
            text += self._stops.finish()
        metrics = self._metrics() if finish_reason else None
        return Delta(
            text=text,
            token_ids=output.token_ids,
            logprobs=output.logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            index=self._index,
            metrics=metrics,
            prompt_logprobs=prompt_logprobs,
            score=self._request.score,
        )

    def push_all(self, outputs: Sequence[RequestOutput]) -> Delta:
        """Return one delta of several outputs that follow each other; what comes after a stop string is left out."""
        if not self._request.params.stop_strings:
            return self.push(_joined(outputs))
        delta = self.push(outputs[0])
        for output in outputs[1:]:
            if delta.finish_reason:
                break
            delta = merged(delta, self.push(output))
        return delta

    def _push(self, text: str) -> str:
        return self._stops.push(text, active=self._num_tokens >= self._request.params.min_tokens)

    def _metrics(self) -> Metrics:
        first, last, request = self._first_token_at, self._last_token_at or time.perf_counter(), self._request
        seconds, rest = last - first, self._num_tokens - 1
        return Metrics(
            time_to_first_token=first - request.queued_at,
            total_time=last - request.queued_at,
            tokens_per_second=rest / seconds if rest > 0 and seconds > 0 else 0.0,
            queue_time=(request.started_at or last) - request.queued_at,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=self._num_tokens,
            num_cached_tokens=request.num_cached_tokens,
            num_draft_tokens=request.pace.num_drafted,
            num_accepted_tokens=request.pace.num_accepted,
        )


class Answer:
    """One request's answer as it comes.

    What nobody reads piece by piece is decoded in one piece (`decode`), unless a stop string may end it.

    Args:
        is_read: whether deltas are read as they come.

    Attributes:
        unread: deltas that wait for their reader.
        has_ended: whether `completion` can be asked for.
        error: why no more will come although the answer is unfinished; None in good order.
    """

    def __init__(self, request: Request, text: OutputText, *, is_read: bool) -> None:
        self.unread: deque[Delta] = deque()
        self.has_ended = False
        self.error: Exception | None = None
        self._request, self._text, self._is_read = request, text, is_read
        self._is_patient = not is_read and not request.params.stop_strings
        self._num_prompt_tokens = request.num_prompt_tokens
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._texts: list[str] = []
        self._prompt_logprobs: list[TokenLogprobs] | None = None
        self._undecoded: RequestOutput | None = None
        self._last: Delta | None = None

    @property
    def request_id(self) -> int:
        """Of the request."""
        return self._request.id

    def add(self, output: RequestOutput) -> None:
        """Note what one step gave."""
        self._token_ids += output.token_ids
        self._logprobs += output.logprobs or ()
        self.has_ended = output.finish_reason is not None
        if not self._is_patient:
            self._push(output)
            return
        self._text.note(self.has_ended)
        if self.has_ended:
            self._undecoded = output._replace(token_ids=tuple(self._token_ids))

    def decode(self) -> None:
        """Make the text of an answer that has ended, if that has not been done; a good time is when a step runs."""
        if self._undecoded is not None:
            self._push(self._undecoded)
            self._undecoded = None

    def _push(self, output: RequestOutput) -> None:
        delta = self._text.push(output)
        self._texts.append(delta.text)
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = list(delta.prompt_logprobs)
        if self._is_read:
            self.unread.append(delta)
        if delta.finish_reason:
            self._last, self.has_ended = delta, True

    def completion(self) -> Completion:
        """Return the whole answer, which must have ended."""
        self.decode()
        last, request = self._last, self._request
        assert last is not None
        assert last.finish_reason is not None
        assert last.metrics is not None
        return Completion(
            text="".join(self._texts),
            token_ids=self._token_ids,
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            logprobs=None if request.params.logprobs is None else self._logprobs,
            prompt_token_ids=request.token_ids[: self._num_prompt_tokens],
            prompt_logprobs=self._prompt_logprobs,
            metrics=last.metrics,
            index=last.index,
            score=last.score,
        )


def best_completions(completions: Sequence[Completion], params: SamplingParams) -> list[Completion]:
    """Return the `n` best of a prompt's answers, the likeliest per token first."""
    ranked = sorted(completions, key=lambda one: -_mean_logprob(one.logprobs or ()))[: params.n]
    return [
        replace(one, index=index, logprobs=None if params.logprobs is None else one.logprobs)
        for index, one in enumerate(ranked)
    ]


def best_deltas(deltas: Iterable[Delta], params: SamplingParams) -> list[Delta]:
    """The same of whole answers as deltas."""
    deltas = list(deltas)
    prompt_logprobs = next((one.prompt_logprobs for one in deltas if one.prompt_logprobs is not None), None)
    ranked = sorted(deltas, key=lambda one: -_mean_logprob(one.logprobs or ()))[: params.n]
    return [
        replace_in(
            one,
            index=index,
            logprobs=None if params.logprobs is None else one.logprobs,
            prompt_logprobs=None if index else prompt_logprobs,
        )
        for index, one in enumerate(ranked)
    ]


def _mean_logprob(logprobs: Sequence[TokenLogprobs]) -> float:
    return sum(entry.logprob for entry in logprobs) / max(1, len(logprobs))


def _joined(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """Several outputs of one request as one."""
    last = outputs[-1]
    if len(outputs) == 1:
        return last
    asked = outputs[0].logprobs is not None
    logprobs = tuple(entry for one in outputs for entry in one.logprobs or ()) if asked else None
    return last._replace(token_ids=tuple(token for one in outputs for token in one.token_ids), logprobs=logprobs)


def merged(first: Delta, second: Delta) -> Delta:
    """Return two deltas of one answer that follow each other as one."""
    logprobs = None if first.logprobs is None else first.logprobs + (second.logprobs or ())
    return replace_in(
        second,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs,
    )
