"""The Python face of serving: an artifact opened, prompts in, answers out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from types import TracebackType
from typing import TypeAlias

from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.bad_words import bad_word_ids
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.chat_template import Message
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.output import Answer, Completion, Delta, OutputText, best_completions
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams, one_each
from warploom.runtime.served_model import open_model
from warploom.runtime.speculative_config import SpeculativeConfig

Prompt: TypeAlias = str | Sequence[int]
_LEAST_STARTED = 64  # requests at a time, however long they are


class LLM:
    """A model ready to generate. Streams of several requests may be read in turns. Threads take turns, too: a call that
    answers prompts holds the others up until it ends (`AsyncLLM` serves many readers at once).

    Attributes:
        artifact, tokenizer, device: what serves.
        default_params: what the model's authors recommend.

    Args:
        artifact: an artifact or its path.
        device: "cpu" or "cuda"; None: the GPU if the artifact has code for GPUs and there is one, else the CPU. Or a
            device that is open already; the options that follow are for opening one.
        threads: CPU: worker threads; None: one per core that this process may use.
        max_num_seqs: most requests computed in one step; None: 16 on the CPU, 256 on a GPU.
        max_num_batched_tokens: most tokens of one step, longer prompts are computed in chunks; None: 512 on the CPU,
            8192 on a GPU.
        kv_cache_bytes: memory of the KV cache; None: enough for `max_num_seqs` full contexts, but on the CPU at most
            a quarter of the free memory, on a GPU what is left of `gpu_memory_fraction`.
        gpu_memory_fraction: how much of a GPU's memory is used in all; None: 0.92.
        speculation: tokens are drafted, and verified several in a step; the answers are the same.

    Raises:
        ArtifactError, DeviceError: the artifact is unusable here; see `load`, `CpuDevice` and `CudaDevice`.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str],
        *,
        device: Device | DeviceKind | None = None,
        threads: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        gpu_memory_fraction: float | None = None,
        speculation: SpeculativeConfig | None = None,
    ) -> None:
        options = DeviceOptions(threads, max_num_seqs, max_num_batched_tokens, kv_cache_bytes, gpu_memory_fraction)
        model = open_model(artifact, device, options, speculation)
        self.artifact, self.tokenizer, self.default_params = model.artifact, model.tokenizer, model.default_params
        self.device, self._engine, self._close = model.device, model.engine, model.close
        self._answers: dict[int, Answer] = {}  # the unfinished ones, by request
        self._ended: list[Answer] = []  # in the last step
        self._lock = RLock()  # of the engine and of the two above; streams and finalizers of them come in between
        self._is_closed = False

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def max_context(self) -> int:
        """Most tokens of one sequence, prompt and output: the model's limit or the KV cache's."""
        return self._engine.max_context

    def stats(self) -> EngineStats:
        """Return what the engine tells of itself."""
        return self._engine.stats()

    def close(self) -> None:
        """Free the device. Streams that are still being read end there; calls of other threads end first."""
        with self._lock:
            self._is_closed = True
            self._close()

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """Answer all prompts, batched, in their order.

        Args:
            prompts: one text, several texts, or several lists of token ids (taken as they are, no BOS added).
            params: for all, or one per prompt. None: the model authors' own defaults (`default_params`).
            progress: called with (finished, total) whenever that changes.

        Returns:
            A completion per prompt; with `n` in the parameters, as many, one after the other.

        Raises:
            InvalidRequestError: a prompt or its parameters are refused; nothing has been generated then.
            EngineError: the device failed.
        """
        paired = self._paired(_listed(prompts), params)
        jobs = [(one, self._requests(self._tokens(prompt), one)) for prompt, one in paired]
        made = self._answered((request for _, requests in jobs for request in requests), progress)
        return [completion for one, requests in jobs for completion in _given([next(made) for _ in requests], one)]

    def beam_search(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: BeamSearchParams,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """Find the likeliest answers to each prompt, the best first; see `generate` and `BeamSearchParams`."""
        searches = [self._engine.new_search(self._tokens(prompt), params) for prompt in _listed(prompts)]
        made = self._answered((request for requests in searches for request in requests), progress)
        return [[replace(next(made), index=index) for index in range(len(requests))] for requests in searches]

    def _answered(
        self, requests: Iterable[Request], progress: Callable[[int, int], None] | None
    ) -> Iterator[Completion]:
        """Run requests to their ends."""
        pending = deque(requests)
        answers: list[Answer] = []
        finished, total = 0, len(pending)
        with self._lock:
            try:
                while finished < total:
                    answers += self._start_some(pending)
                    if not self._pump():
                        continue
                    _raise_errors(answers)
                    before, finished = finished, sum(answer.has_ended for answer in answers)
                    if progress and finished > before:
                        progress(finished, total)
            finally:
                for answer in answers:
                    self._drop(answer.request_id)
            return iter([answer.completion() for answer in answers])

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt piece by piece; the request is queued when the first piece is asked for.

        Closing the iterator early ends the request; it has one answer, so `n` must be 1. Errors are those of
        `generate`; a refused prompt or parameter is raised here, not by the iterator.
        """
        params = params or self.default_params
        if params.num_made > 1:
            raise InvalidRequestError("A stream has one answer", expected="n and best_of of 1", found=f"n {params.n}")
        (request,) = self._requests(self._tokens(prompt), params)
        return self._read(request)

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """Answer a conversation: messages with `role` and `content`, through the model's own chat template.

        Raises:
            InvalidRequestError: the model has no chat template, or the template refuses the messages; else as
                `generate`.
        """
        return self.generate([self.tokenizer.encode_chat(messages)], params)[0]

    def stream_chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer a conversation piece by piece; see `chat` and `stream`."""
        return self.stream(self.tokenizer.encode_chat(messages), params)

    def _paired(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> Iterator[tuple[Prompt, SamplingParams]]:
        """Give each prompt its parameters."""
        if params is None or isinstance(params, SamplingParams):
            params = [params or self.default_params] * len(prompts)
        if isinstance(params, Mapping) or not all(isinstance(one, SamplingParams) for one in params):
            raise InvalidRequestError(
                "These are no sampling parameters", expected="SamplingParams(...)", found=repr(params)[:200]
            )
        if len(params) != len(prompts):
            raise InvalidRequestError(
                "The sampling parameters do not match the prompts",
                expected=f"one for all, or a list of {len(prompts)}",
                found=f"a list of {len(params)}",
            )
        return zip(prompts, params, strict=True)

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode_prompt(prompt)

    def _requests(self, prompt: list[int], params: SamplingParams) -> list[Request]:
        """One request per answer that has to be made."""
        bad_words = bad_word_ids(self.tokenizer, params.bad_words)
        requests: list[Request] = []
        for one in one_each(params):
            leader = requests[0] if requests else None
            requests.append(self._engine.new_request(prompt, one, bad_words=bad_words, leader=leader))
        return requests

    def _start_some(self, pending: deque[Request]) -> list[Answer]:
        """Start what fills the next step; the others are started while the device works."""
        most = self.device.max_tokens
        room, started = most, list[Answer]()
        while pending and room > 0 and self._engine.has_room:
            room -= min(len(pending[0].token_ids), most // _LEAST_STARTED)  # much of a prompt may be cached
            started.append(self._start(pending.popleft(), is_read=False))
        return started

    def _start(self, request: Request, *, is_read: bool) -> Answer:
        with_special = not request.params.skip_special_tokens
        detokenizer = self.tokenizer.detokenizer(request.token_ids, with_special=with_special)
        answer = Answer(request, OutputText(detokenizer, request), is_read=is_read)
        with self._lock:
            self._engine.add(request)
            self._answers[request.id] = answer
        return answer

    def _read(self, request: Request) -> Iterator[Delta]:
        answer = self._start(request, is_read=True)
        try:
            while True:
                with self._lock:
                    while not answer.unread:
                        self._pump()
                        _raise_errors([answer])
                delta = answer.unread.popleft()
                yield delta
                if delta.finish_reason:
                    return
        finally:
            self._drop(answer.request_id)

    def _pump(self) -> bool:
        """Run one step, hand each request what it got, and return whether some have ended.

        A failure is left with the requests that it ended.

        Raises:
            EngineError: the model has been closed.
        """
        if self._is_closed:
            raise EngineError("The model has been closed", fix="open the artifact again")
        try:
            outputs = self._engine.step()
        except Exception as error:
            ended = [one for one in self._answers if one not in self._engine]
            for request_id in ended:
                self._answers.pop(request_id).error = error
            return True
        before, self._ended = self._ended, []
        for answer in before:  # now that the device is busy again
            answer.decode()
        for output in outputs:
            found = self._answers.get(output.request_id)
            if found is None:  # ended by a stop string, some tokens of this step before
                continue
            found.add(output)
            if found.has_ended:
                self._drop(output.request_id)
                self._ended.append(found)
        return bool(self._ended)

    def _drop(self, request_id: int) -> None:
        """Let go of a request, finished or not."""
        with self._lock:
            self._engine.abort(request_id)
            self._answers.pop(request_id, None)


def _listed(prompts: str | Sequence[str] | Sequence[Sequence[int]]) -> Sequence[Prompt]:
    return [prompts] if isinstance(prompts, str) else prompts


def _given(made: list[Completion], params: SamplingParams) -> list[Completion]:
    """Of the answers made to one prompt, those asked for."""
    if params.num_made > params.n:
        return best_completions(made, params)
    return [replace(one, index=index) for index, one in enumerate(made)] if params.n > 1 else made


def _raise_errors(answers: Iterable[Answer]) -> None:
    for answer in answers:
        if answer.error is not None:
            raise EngineError("The device failed in a step", found=str(answer.error)) from answer.error
