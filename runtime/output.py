"""From the tokens of one request to what its user reads: text pieces, and the whole answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from warploom.runtime.detokenizer import Detokenizer
from warploom.runtime.engine import RequestOutput
from warploom.runtime.request import FinishReason, Request, TokenLogprobs
from warploom.runtime.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added.

    Attributes:
        text: may be empty, while a character or a possible stop string is incomplete.
        token_ids: the new tokens. logprobs: one per token, or None if not asked for.
        finish_reason: None while more follows; "stop" (end token or stop string), "length" (max_tokens or the
            context is full), "abort" (the model's output was unusable).
        stop_reason: the stop string or the end token of "stop"; what went wrong, for "abort".
        index: which of the request's `n` answers this belongs to.
        prompt_logprobs: with the first delta, if asked for: one per token of the prompt from the second one on.
        metrics: with the last delta of an answer.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    index: int = 0
    metrics: Metrics | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Times of one answer, from the moment it was queued, and its tokens.

    Attributes:
        time_to_first_token: seconds. total_time: seconds to the last token.
        tokens_per_second: rate of the tokens after the first; 0 if there is only one.
        queue_time: seconds until its first step was planned.
        num_cached_tokens: prompt tokens that were found in the cache.
    """

    time_to_first_token: float
    total_time: float
    tokens_per_second: float
    queue_time: float = 0.0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished answer; the fields are those of its deltas, joined."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: list[TokenLogprobs] | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs] | None
    metrics: Metrics


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
        self._first_token_at = 0.0

    def push(self, output: RequestOutput) -> Delta:
        """Return the delta of one output. Its finish reason may be "stop" where the engine's is not: then a stop
        string was found, and the caller has to end the request.
        """
        prompt_logprobs = None
        if self._num_tokens == 0:
            self._first_token_at = time.perf_counter()
            if self._request.params.prompt_logprobs is not None:
                prompt_logprobs = tuple(self._request.prompt_logprobs)
        self._num_tokens += len(output.token_ids)
        ended = output.finish_reason is not None
        visible = () if output.finish_reason == "stop" else output.token_ids  # an end token is not text
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
        )

    def _push(self, text: str) -> str:
        return self._stops.push(text, active=self._num_tokens >= self._request.params.min_tokens)

    def _metrics(self) -> Metrics:
        now, request = time.perf_counter(), self._request
        seconds, rest = now - self._first_token_at, self._num_tokens - 1
        return Metrics(
            time_to_first_token=self._first_token_at - request.queued_at,
            total_time=now - request.queued_at,
            tokens_per_second=rest / seconds if rest > 0 and seconds > 0 else 0.0,
            queue_time=(request.started_at or now) - request.queued_at,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=self._num_tokens,
            num_cached_tokens=request.num_cached_tokens,
        )


class Answer:
    """One request's deltas as they come.

    Attributes:
        error: why no more will come although the answer is unfinished; None in good order.
    """

    def __init__(self, prompt_token_ids: list[int], text: OutputText) -> None:
        self.deltas: list[Delta] = []
        self.error: Exception | None = None
        self._prompt_token_ids, self._text = prompt_token_ids, text

    def add(self, output: RequestOutput) -> Delta:
        """Note what one step gave, and return it as a delta."""
        delta = self._text.push(output)
        self.deltas.append(delta)
        return delta

    def completion(self) -> Completion:
        """Return the whole answer; its last delta must have a finish reason."""
        last = self.deltas[-1]
        assert last.finish_reason is not None
        assert last.metrics is not None
        logprobs = [entry for delta in self.deltas for entry in delta.logprobs or ()]
        return Completion(
            text="".join(delta.text for delta in self.deltas),
            token_ids=[token for delta in self.deltas for token in delta.token_ids],
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            logprobs=None if last.logprobs is None else logprobs,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=None if (first := self.deltas[0].prompt_logprobs) is None else list(first),
            metrics=last.metrics,
        )


def merged(first: Delta, second: Delta) -> Delta:
    """Return two deltas of one answer that follow each other as one."""
    logprobs = None if first.logprobs is None else first.logprobs + (second.logprobs or ())
    return replace(
        second,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs,
    )
