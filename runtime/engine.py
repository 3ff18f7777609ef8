"""The engine: one loop that schedules, runs the device, and hands out tokens. One thread owns it."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.device import Device, StepOutput
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import FinishReason, Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.scheduler import Chunk, Scheduler
from warploom.runtime.step_batch import build_step_batch


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities (natural, of the raw logits) at one output position.

    Attributes:
        top: the likeliest tokens with theirs, descending; as many as the request asked for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RequestOutput:
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


class Engine:
    """Continuous batching on one device.

    Args:
        device: runs the steps; the KV cache is as large as its.
        vocab_size: token ids are below it.
        max_context: most tokens of one sequence, prompt and output.
        eos_token_ids: the model's end tokens.
        max_waiting: requests that may queue beside the running ones.

    Attributes:
        max_context: the model's, or the KV cache's capacity if that is smaller.
    """

    def __init__(
        self,
        device: Device,
        *,
        vocab_size: int,
        max_context: int,
        eos_token_ids: Sequence[int],
        max_waiting: int = 1024,
    ) -> None:
        max_pages = -(-max_context // device.page_size)
        self._device, self._vocab_size, self._max_waiting = device, vocab_size, max_waiting
        self._eos_token_ids = frozenset(eos_token_ids)
        self._kv_cache = KVCache(device.num_pages, device.page_size, device.max_seqs, max_pages)
        self._scheduler = Scheduler(self._kv_cache, max_seqs=device.max_seqs, max_batched_tokens=device.max_tokens)
        self._sampler = SamplerTable(device.max_seqs)
        self._requests: dict[int, Request] = {}
        self._ids = count()
        self.max_context = min(max_context, self._kv_cache.max_tokens)

    @property
    def has_room(self) -> bool:
        """Whether the queue takes another request."""
        return len(self._scheduler.waiting) < self._max_waiting

    @property
    def has_work(self) -> bool:
        """Whether some request is unfinished."""
        return bool(self._requests)

    def __contains__(self, request_id: int) -> bool:
        """Whether the request is queued or running."""
        return request_id in self._requests

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> int:
        """Return how many output tokens fit after the prompt.

        Raises:
            InvalidRequestError: the prompt is empty, too long, or holds ids outside the vocabulary; or the
                parameters do, or they ask for more tokens than fit.
        """
        self._check_prompt(prompt_token_ids)
        self._check_token_ids("stop_token_ids", params.stop_token_ids)
        self._check_token_ids("logit_bias", list(params.logit_bias))
        room = self.max_context - len(prompt_token_ids)
        if params.min_tokens > room:
            raise InvalidRequestError(
                "The sampling parameter min_tokens does not fit in the context",
                expected=f"at most {room} (context {self.max_context}, prompt {len(prompt_token_ids)} tokens)",
                found=str(params.min_tokens),
            )
        return room

    def new_request(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Request:
        """Return a request for `add`; any thread may ask. InvalidRequestError: see `validate`."""
        room = self.validate(prompt_token_ids, params)
        return Request(
            id=next(self._ids),
            token_ids=list(prompt_token_ids),
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            end_token_ids=self._end_token_ids(params),
            seed=secrets.randbits(64) if params.seed is None else params.seed,
        )

    def add(self, request: Request) -> None:
        """Queue a request, however long the queue is."""
        self._scheduler.add(request)
        self._requests[request.id] = request

    def add_request(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a request and return its id.

        Raises:
            InvalidRequestError: see `validate`.
            EngineError: the queue is full.
        """
        request = self.new_request(prompt_token_ids, params)
        if not self.has_room:
            raise EngineError(
                "The engine's queue is full",
                expected=f"fewer than {self._max_waiting} waiting requests",
                found=str(len(self._scheduler.waiting)),
                fix="wait for some to finish, or build the engine with a longer queue",
            )
        self.add(request)
        return request.id

    def abort(self, request_id: int) -> None:
        """Forget a request and free what it holds. One that has finished is no error: the two may cross."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._scheduler.remove(request)

    def step(self) -> list[RequestOutput]:
        """Run one step; return what it gave to each request that got something. Without work, do nothing.

        Raises:
            Exception: what the device raised. The requests of the step are gone; the others and the engine go on.
        """
        schedule = self._scheduler.schedule()
        if not schedule.chunks:
            return []
        for request in schedule.admitted:
            self._sampler.admit(request)
        now = time.perf_counter()
        for request in schedule.admitted:
            request.started_at = request.started_at or now
        try:
            output = self._device.execute(build_step_batch(schedule.chunks, self._kv_cache, self._sampler))
        except Exception:
            for request, _ in schedule.chunks:
                self.abort(request.id)
            raise
        return self._advance(schedule.chunks, output)

    def stats(self) -> EngineStats:
        """Return gauges and counters; any thread may ask."""
        pool = self._kv_cache.pool
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            max_running=self._device.max_seqs,
            kv_usage=1 - pool.num_free / pool.num_pages,
        )

    def check(self) -> None:
        """Assert the invariants of scheduler and cache (tests, and idle moments in production)."""
        self._scheduler.check()
        held = {request.id for request in (*self._scheduler.running, *self._scheduler.waiting)}
        assert held == self._requests.keys()

    def _advance(self, chunks: Sequence[Chunk], output: StepOutput) -> list[RequestOutput]:
        """Count the computed tokens and append the sampled ones."""
        outputs: list[RequestOutput] = []
        tokens, logprobs = output.tokens.tolist(), output.logprobs.tolist()
        for request, num_tokens in chunks:
            request.num_computed += num_tokens
            if request.num_remaining == 0:
                index = len(outputs)
                outputs.append(self._append(request, tokens[index], logprobs[index], output, index))
        return outputs

    def _append(self, request: Request, token: int, logprob: float, output: StepOutput, index: int) -> RequestOutput:
        """Give `token`, row `index` of `output`, to its request, which may end it."""
        if not (0 <= token < self._vocab_size and math.isfinite(logprob)):
            self.abort(request.id)
            found = f"the model gave token {token} with log-probability {logprob}"
            return RequestOutput(request.id, (), None, "abort", found)
        assert request.row is not None
        request.token_ids.append(token)
        self._sampler.observe(request.row, token)
        finish_reason = _finish_reason(request, token)
        if finish_reason:
            self.abort(request.id)
        return RequestOutput(
            request.id,
            (token,),
            _token_logprobs(request.params.logprobs, token, logprob, output, index),
            finish_reason,
            token if finish_reason == "stop" else None,
        )

    def _end_token_ids(self, params: SamplingParams) -> frozenset[int]:
        own = frozenset(params.stop_token_ids)
        return own if params.ignore_eos else own | self._eos_token_ids

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise InvalidRequestError("The prompt is empty", expected="at least one token", found="no tokens")
        if len(prompt) >= self.max_context:
            raise InvalidRequestError(
                "The prompt is longer than the context",
                expected=f"at most {self.max_context - 1} tokens (context {self.max_context}, one for output)",
                found=f"{len(prompt)} tokens",
                fix="shorten the prompt",
            )
        self._check_token_ids("the prompt", prompt)

    def _check_token_ids(self, name: str, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            if type(token) is not int or not 0 <= token < self._vocab_size:
                raise InvalidRequestError(
                    f"A token id in {name} is not valid",
                    expected=f"integers in 0..{self._vocab_size - 1}",
                    found=repr(token)[:200],
                )


def _finish_reason(request: Request, token: int) -> FinishReason | None:
    if token in request.end_token_ids and request.num_output_tokens >= request.params.min_tokens:
        return "stop"
    return "length" if request.num_output_tokens >= request.max_tokens else None


def _token_logprobs(
    wanted: int | None, token: int, logprob: float, output: StepOutput, index: int
) -> tuple[TokenLogprobs, ...] | None:
    if wanted is None:
        return None
    top: tuple[tuple[int, float], ...] = ()
    if wanted and output.top_tokens is not None and output.top_logprobs is not None:
        top_tokens, top_logprobs = output.top_tokens[index, :wanted], output.top_logprobs[index, :wanted]
        top = tuple(zip(top_tokens.tolist(), top_logprobs.tolist(), strict=True))
    return (TokenLogprobs(token, logprob, top),)
