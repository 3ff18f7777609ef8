"""What a step gives to requests: their tokens, and whether they end with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from warploom.runtime.guide import GuideError
from warploom.runtime.request import FinishReason, Request, TokenLogprobs
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.scheduler import Scheduler
from warploom.runtime.step_reader import StepReader


class RequestOutput(NamedTuple):
    """What one step gave one request.

    Attributes:
        token_ids: the new tokens; empty if the request was ended without one.
        logprobs: one per new token, or None if the request did not ask.
        finish_reason: None while it goes on.
        stop_reason: the token that ended it, when `finish_reason` is "stop"; what went wrong, when "abort".
    """

    request_id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None


class OutputWriter:
    """Gives running requests their tokens.

    Args:
        abort: called with the id of a request that ends.
    """

    def __init__(self, sampler: SamplerTable, abort: Callable[[int], None]) -> None:
        self._sampler, self._abort = sampler, abort

    def write(self, sampled: Iterable[tuple[int, Request]], reader: StepReader) -> list[RequestOutput]:
        """Give requests the tokens of rows, which may end them."""
        outputs: list[RequestOutput] = []
        observed, tokens = self._sampler.observes, reader.tokens
        for index, request in sampled:
            if request.is_done:
                continue
            if reader.unusable and index in reader.unusable:
                outputs.append(self._end(request, reader.unusable[index]))
                continue
            token, token_ids = tokens[index], request.token_ids
            token_ids.append(token)
            if observed:
                self._sampler.observe(request, token)
            if token in request.end_token_ids or len(token_ids) >= request.full_length or request.reports_logprobs:
                outputs.append(self._output(request, token, index, reader))
            else:
                outputs.append(RequestOutput(request.id, (token,), None, None, None))
        return outputs

    def _output(self, request: Request, token: int, index: int, reader: StepReader) -> RequestOutput:
        """What a request gets with a new token that may be its last."""
        finish_reason: FinishReason | None = None
        if token in request.end_token_ids and request.num_output_tokens >= request.params.min_tokens:
            finish_reason = "stop"
        elif len(request.token_ids) >= request.full_length:
            finish_reason = "length"
        if finish_reason:
            self._abort(request.id)
        wanted = request.params.logprobs
        logprobs = None if wanted is None else (reader.logprobs_of(index, wanted),)
        stop_reason = token if finish_reason == "stop" else None
        return RequestOutput(request.id, (token,), logprobs, finish_reason, stop_reason)

    def _end(self, request: Request, why: str) -> RequestOutput:
        self._abort(request.id)
        return RequestOutput(request.id, (), None, "abort", why)

    def end_failed(self, scheduler: Scheduler) -> list[RequestOutput]:
        """End the requests whose logits processors or guides have failed."""
        errors, self._sampler.errors = self._sampler.errors, {}
        running = {request.row: request for request in scheduler.running}
        return [self._end(running[row], _why(error)) for row, error in errors.items() if row in running]


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, GuideError) else f"a logits processor failed: {error!r}"
