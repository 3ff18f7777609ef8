"""The asynchronous face of serving: many requests at once on one event loop, the engine in a thread of its own.

    reader ──start──► tokenizer threads ──► engine thread ──outputs──► output thread ──deltas──► reader

The event loop never computes: tokenizing runs in a pool of threads, detokenizing and the search for stop strings in
one that serves all requests. Readers are told of a step once, however many of them it has tokens for.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Thread
from types import TracebackType
from typing import TypeAlias

from warploom.errors import EngineDeadError, EngineError, InvalidRequestError, QueueFullError, WarploomError
from warploom.runtime.artifact import Artifact
from warploom.runtime.bad_words import bad_word_ids
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.engine_thread import EngineEnd, EngineThread
from warploom.runtime.output import Delta, OutputText
from warploom.runtime.output_stream import OutputStream
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams, one_each
from warploom.runtime.served_model import ServedModel, open_model
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_outputs import RequestOutput

Prompt: TypeAlias = str | Sequence[int]
_WATCH_SECONDS = 1.0  # how often the engine's heartbeat is looked at
_SWITCH_SECONDS = 5e-4  # for how long a Python thread computes while others wait
_REST = 6.0  # how much longer the output thread rests than it works, for readers take time, too
_MIN_REST_SECONDS, _MAX_REST_SECONDS = 2e-4, 0.02
_STOP_SECONDS = 10.0  # a step that takes longer when all is to end is taken for hung


@dataclass(frozen=True, slots=True)
class _Answer:
    """One of the answers of a stream, as the output thread knows it."""

    stream: OutputStream
    text: OutputText


class AsyncLLM:
    """A model ready to serve. Made by `load`; its methods are for event loops, any number of them.

    Attributes:
        artifact, tokenizer, default_params: as those of `LLM`.
        max_requests: most unfinished answers: those that run at once, and `max_queue` that wait.
    """

    def __init__(self, model: ServedModel, *, max_queue: int, hang_timeout_s: float) -> None:
        self.artifact, self.tokenizer, self.default_params = model.artifact, model.tokenizer, model.default_params
        self.max_requests = model.device.max_seqs + max_queue
        self._engine, self._close = model.engine, model.close
        self._hang_timeout_s = hang_timeout_s
        self._answers: dict[int, _Answer] = {}  # by request
        self._closing = False
        self._dead: EngineDeadError | None = None
        self._seconds_per_answer = 1.0  # between ends of answers, a moving mean
        self._last_end = time.monotonic()
        # The engine's thread wakes up when the device is done, and must not wait 5 ms for one that computes.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
        self._tokenizing = ThreadPoolExecutor(2, "warploom-tokenizer")
        self._thread = EngineThread(model.engine)
        self._output_thread = Thread(target=self._hand_out, name="warploom-output", daemon=True)
        self._output_thread.start()

    @classmethod
    def load(
        cls,
        artifact: Artifact | str | os.PathLike[str],
        *,
        device: Device | DeviceKind | None = None,
        threads: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        gpu_memory_fraction: float | None = None,
        speculation: SpeculativeConfig | None = None,
        max_queue: int = 256,
        hang_timeout_s: float = 120.0,
    ) -> AsyncLLM:
        """Open an artifact; blocks while weights are loaded. Options and errors beside these are those of `LLM`.

        Args:
            max_queue: answers that may wait beside the running ones; more are refused.
            hang_timeout_s: a step of this many seconds means that the device hangs, and all requests fail.
        """
        options = DeviceOptions(threads, max_num_seqs, max_num_batched_tokens, kv_cache_bytes, gpu_memory_fraction)
        return cls(
            open_model(artifact, device, options, speculation), max_queue=max_queue, hang_timeout_s=hang_timeout_s
        )

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def max_context(self) -> int:
        """Most tokens of one sequence, prompt and output: the model's limit or the KV cache's."""
        return self._engine.max_context

    def stats(self) -> EngineStats:
        """Return what the engine tells of itself; any thread may ask."""
        return replace(self._thread.stats(), dead=str(self._dead) if self._dead else None)

    async def start(
        self,
        prompt: Prompt,
        params: SamplingParams | BeamSearchParams | None = None,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
    ) -> OutputStream:
        """Queue a request and return the stream of its deltas; see `generate` for the arguments.

        When this returns, the request has been accepted: whatever is refused is refused here.
        """
        params = params or self.default_params
        tokens = await self._tokenize(prompt)
        if isinstance(params, SamplingParams) and params.guide:  # may take long to compile, and is found again below
            await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._engine.validate, tokens, params)
        requests = self._requests(tokens, params, priority, cache_salt)
        self._check_open()
        if len(self._answers) + len(requests) > self.max_requests:
            raise self._queue_full(len(requests))
        ids = [request.id for request in requests]
        chosen_by = params if isinstance(params, SamplingParams) else None
        stream = OutputStream(tokens, len(requests), chosen_by, timeout_s, lambda: self._cancel(ids))
        for index, request in enumerate(requests):
            with_special = not request.params.skip_special_tokens
            detokenizer = self.tokenizer.detokenizer(tokens, with_special=with_special)
            self._answers[request.id] = _Answer(stream, OutputText(detokenizer, request, index))
            self._thread.add(request)
        if self._dead:  # since it was looked at
            self._fail_all(self._dead)
        return stream

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | BeamSearchParams | None = None,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[Delta]:
        """Answer a prompt piece by piece. Closing the iterator or cancelling its task cancels the request.

        Args:
            prompt: a text, or token ids (taken as they are, no BOS added).
            params: None: the model authors' own defaults (`default_params`). Answers that a beam search finds come
                whole, each as one piece.
            priority: requests with a smaller one go first.
            timeout_s: seconds until the request is given up.
            cache_salt: only requests with the same salt share cached prompts.

        Raises:
            InvalidRequestError: the prompt or its parameters are refused.
            QueueFullError: too many requests are unfinished; says when to try again.
            DeadlineError: `timeout_s` is over.
            EngineDeadError: the device failed or hangs.
            EngineError: the model has been closed.
        """
        async with await self.start(
            prompt, params, priority=priority, timeout_s=timeout_s, cache_salt=cache_salt
        ) as stream:
            async for delta in stream:
                yield delta

    def end_all(self) -> None:
        """Give every unfinished request up: its stream raises EngineError. To be called on the readers' loop."""
        ended = list(self._answers)
        self._fail_all(EngineError("The request has been ended with all others"))
        for request_id in ended:
            self._thread.abort(request_id)

    async def close(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let the unfinished ones run for `drain_s` seconds, end the others, free the device.

        A device that hangs keeps what it has: nothing can be done about it but ending the process.
        """
        if self._closing:
            return
        self._closing = True
        end = time.monotonic() + drain_s
        while self._answers and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._fail_all(EngineError("The model has been closed"))
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        ended = self._thread.stop(_STOP_SECONDS)
        self._output_thread.join(_STOP_SECONDS)
        self._tokenizing.shutdown()
        if ended:
            self._close()

    async def _tokenize(self, prompt: Prompt) -> list[int]:
        self._check_open()
        if not isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, self.tokenizer.encode, prompt)

    def _requests(
        self, tokens: list[int], params: SamplingParams | BeamSearchParams, priority: int, cache_salt: str
    ) -> list[Request]:
        """One request per answer."""
        if isinstance(params, BeamSearchParams):
            return self._engine.new_search(tokens, params, priority=priority, cache_salt=cache_salt)
        if params.num_made > self.max_requests:
            raise InvalidRequestError(
                "The sampling parameter n is not valid here",
                expected=f"at most {self.max_requests}",
                found=str(params.num_made),
                param="n",
            )
        bad_words = bad_word_ids(self.tokenizer, params.bad_words)
        leader: Request | None = None
        requests: list[Request] = []
        for one in one_each(params):
            request = self._engine.new_request(
                tokens, one, bad_words=bad_words, priority=priority, cache_salt=cache_salt, leader=leader
            )
            leader = leader or request
            requests.append(request)
        return requests

    def _check_open(self) -> None:
        if self._dead:
            raise self._dead
        if self._closing:
            raise EngineError("The model is being closed", fix="send the request to another server")

    def _queue_full(self, wanted: int) -> QueueFullError:
        over = len(self._answers) + wanted - self.max_requests
        wait = math.ceil(min(60.0, max(1.0, over * self._seconds_per_answer)))
        return QueueFullError("The queue is full", retry_after_s=wait, found=f"{len(self._answers)} unfinished answers")

    def _cancel(self, request_ids: Iterable[int]) -> None:
        """Forget the answers of a stream; those that have ended are no error."""
        for request_id in request_ids:
            if self._answers.pop(request_id, None):
                self._thread.abort(request_id)

    def _hand_out(self) -> None:
        """The output thread: from the outputs of steps to the deltas of streams.

        It rests longer than it works, so that what many readers get is put together from several steps, and the
        engine's thread is not kept waiting.
        """
        end: EngineEnd | None = None
        while end is None:
            outputs, end = self._thread.take(_WATCH_SECONDS)
            if not outputs and self._thread.heartbeat_age > self._hang_timeout_s:
                self._die(TimeoutError(f"a step has not ended for {self._hang_timeout_s} s"))
            began = time.perf_counter()
            self._deliver(outputs)
            rest = min(_MAX_REST_SECONDS, _REST * (time.perf_counter() - began))
            if rest > _MIN_REST_SECONDS:
                time.sleep(rest)
        if end.error is not None:
            self._die(end.error)

    def _deliver(self, outputs: Iterable[RequestOutput]) -> None:
        by_request: dict[int, list[RequestOutput]] = {}
        for output in outputs:
            by_request.setdefault(output.request_id, []).append(output)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[OutputStream, Delta]]] = {}
        for request_id, own in by_request.items():
            answer = self._answers.get(request_id)
            if answer is None:  # cancelled, or ended by a stop string
                continue
            try:
                delta = answer.text.push_all(own)
            except Exception as error:  # a fault of one answer ends that one only
                self._cancel([request_id])
                failure = EngineError("The answer could not be decoded", found=repr(error), fix="report it")
                _call(answer.stream.loop, answer.stream.fail, failure)
                continue
            if delta.finish_reason:
                self._finish(own[-1])
            by_loop.setdefault(answer.stream.loop, []).append((answer.stream, delta))
        for loop, pairs in by_loop.items():
            _call(loop, _push_all, pairs)

    def _finish(self, output: RequestOutput) -> None:
        self._answers.pop(output.request_id, None)
        if output.finish_reason is None:
            self._thread.abort(output.request_id)
        now = time.monotonic()
        self._seconds_per_answer += 0.1 * (now - self._last_end - self._seconds_per_answer)
        self._last_end = now

    def _die(self, cause: BaseException) -> None:
        if self._dead is None:
            self._dead = EngineDeadError(
                "The device failed in a step", found=str(cause) or repr(cause), fix="start the server again"
            )
            self._dead.__cause__ = cause
        self._fail_all(self._dead)

    def _fail_all(self, error: WarploomError) -> None:
        """Give every unfinished stream an error."""
        streams = {answer.stream for answer in self._answers.copy().values()}
        self._answers.clear()
        for stream in streams:
            _call(stream.loop, stream.fail, error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Call a function on a loop; one that has been closed has no readers left."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        assert loop.is_closed()


def _push_all(pairs: Iterable[tuple[OutputStream, Delta]]) -> None:
    for stream, delta in pairs:
        stream.push(delta)
