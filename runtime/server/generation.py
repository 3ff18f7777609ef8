"""All answers to one HTTP request: several prompts, several answers each, read as one stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.output import Delta
from warploom.runtime.output_stream import OutputStream
from warploom.runtime.request import FinishReason, TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.server.metrics import Metrics
from warploom.runtime.server.replies import CachedTokens, Usage

_AHEAD = 64  # deltas that may wait for a reader of several streams; beyond them they merge in their streams


@dataclass(frozen=True, slots=True)
class Ask:
    """How the prompts of a request are run; see `AsyncLLM.generate`."""

    params: SamplingParams | BeamSearchParams
    priority: int
    timeout_s: float
    cache_salt: str


@dataclass(slots=True)
class Answer:
    """One answer, as far as it has come."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: Sequence[TokenLogprobs] | None = None

    @classmethod
    def of(cls, delta: Delta) -> Answer:
        """Return a piece of an answer."""
        answer = cls()
        answer.add(delta)
        return answer

    def add(self, delta: Delta) -> None:
        """Note what comes next."""
        self.text.append(delta.text)
        self.logprobs += delta.logprobs or ()
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs


class Generation:
    """The answers of a request, accepted by the engine. Leaving it in any way cancels what is unfinished.

    It yields pairs of an answer's number (prompts first, then the answers to each) and its next delta.

    Attributes:
        prompts: token ids of each. num_answers: of all prompts together. num_each: of one prompt.
    """

    def __init__(self, streams: Sequence[OutputStream], metrics: Metrics) -> None:
        self.prompts = [stream.prompt_token_ids for stream in streams]
        self._streams, self._metrics = streams, metrics
        self.num_each = streams[0].num_answers
        self.num_answers = len(streams) * self.num_each
        self._unfinished = self.num_answers
        self._queue: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue(_AHEAD)
        self._pumps: list[asyncio.Task[None]] = []
        self._output_tokens = 0
        self._cached_tokens = 0
        self._last_piece: dict[int, float] = {}

    @classmethod
    async def start(cls, llm: AsyncLLM, prompts: Sequence[Sequence[int]], ask: Ask, metrics: Metrics) -> Generation:
        """Queue all prompts, or none.

        Raises:
            InvalidRequestError, QueueFullError, EngineError: as `AsyncLLM.start`.
        """
        streams: list[OutputStream] = []
        try:
            for prompt in prompts:
                stream = await llm.start(
                    prompt, ask.params, priority=ask.priority, timeout_s=ask.timeout_s, cache_salt=ask.cache_salt
                )
                streams.append(stream)
        except BaseException:
            for stream in streams:
                await stream.aclose()
            raise
        return cls(streams, metrics)

    @property
    def has_ended(self) -> bool:
        """Whether all answers have been read to their ends."""
        return self._unfinished == 0

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        num_prompt = sum(map(len, self.prompts))
        cached = CachedTokens(self._cached_tokens) if self._cached_tokens else None
        return Usage(num_prompt, self._output_tokens, num_prompt + self._output_tokens, cached)

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pump in self._pumps:
            pump.cancel()
        for stream in self._streams:
            await stream.aclose()
        self._metrics.cancelled(self._unfinished)
        self._unfinished = 0

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        """Return the next delta; errors as those of `OutputStream`."""
        if self._unfinished == 0:
            raise StopAsyncIteration
        number, delta = await self._next()
        self._observe(number, delta)
        return number, delta

    async def collect(self) -> list[Answer]:
        """Read all answers to their ends."""
        answers = [Answer() for _ in range(self.num_answers)]
        async for number, delta in self:
            answers[number].add(delta)
        return answers

    async def _next(self) -> tuple[int, Delta]:
        if len(self._streams) == 1:
            delta = await anext(self._streams[0])
            return delta.index, delta
        if not self._pumps:
            self._pumps = [
                asyncio.create_task(self._pump(place * self.num_each, one)) for place, one in enumerate(self._streams)
            ]
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def _pump(self, first: int, stream: OutputStream) -> None:
        try:
            async for delta in stream:
                await self._queue.put((first + delta.index, delta))
        except Exception as error:
            await self._queue.put(error)

    def _observe(self, number: int, delta: Delta) -> None:
        now = time.perf_counter()
        self._output_tokens += len(delta.token_ids)
        if number in self._last_piece:
            self._metrics.inter_token_latency.observe(now - self._last_piece[number])
        self._last_piece[number] = now
        if delta.finish_reason:
            self._unfinished -= 1
            self._metrics.finished(delta)
            if delta.metrics and number % self.num_each == 0:
                self._cached_tokens += delta.metrics.num_cached_tokens
