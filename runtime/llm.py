"""The Python face of serving: an artifact opened, prompts in, answers out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeAlias

from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.bad_words import bad_word_ids
from warploom.runtime.chat_template import Message
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.output import Answer, Completion, Delta, OutputText
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.served_model import open_model

Prompt: TypeAlias = str | Sequence[int]


class LLM:
    """A model ready to generate. One thread uses it; streams of several requests may be read in turns.

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
    ) -> None:
        options = DeviceOptions(threads, max_num_seqs, max_num_batched_tokens, kv_cache_bytes, gpu_memory_fraction)
        model = open_model(artifact, device, options)
        self.artifact, self.tokenizer, self.default_params = model.artifact, model.tokenizer, model.default_params
        self._device, self._engine = model.device, model.engine
        self._answers: dict[int, Answer] = {}  # the unfinished ones, by request

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
        """Free the device. Requests that are still being read end there."""
        self._device.close()

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

        Raises:
            InvalidRequestError: a prompt or its parameters are refused; nothing has been generated then.
            EngineError: the device failed.
        """
        listed: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else prompts
        pending = deque(self._validated(prompt, one) for prompt, one in self._paired(listed, params))
        answers: dict[int, Answer] = {}
        finished, total = 0, len(pending)
        try:
            while finished < total:
                while pending and self._engine.has_room:
                    request_id = self._start(*pending.popleft())
                    answers[request_id] = self._answers[request_id]
                self._pump()
                before, finished = finished, len(answers.keys() - self._answers.keys())
                if finished > before:
                    _raise_errors(answers.values())
                    if progress:
                        progress(finished, total)
        finally:
            for request_id in answers:
                self._drop(request_id)
        return [answer.completion() for answer in answers.values()]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt piece by piece; the request is queued when the first piece is asked for.

        Closing the iterator early ends the request. Errors are those of `generate`; a refused prompt or parameter
        is raised here, not by the iterator.
        """
        return self._read(*self._validated(prompt, params or self.default_params))

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
        if len(params) != len(prompts):
            raise InvalidRequestError(
                "The sampling parameters do not match the prompts",
                expected=f"one for all, or a list of {len(prompts)}",
                found=f"a list of {len(params)}",
            )
        return zip(prompts, params, strict=True)

    def _validated(self, prompt: Prompt, params: SamplingParams) -> tuple[list[int], SamplingParams]:
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        self._engine.validate(tokens, params)
        return tokens, params

    def _start(self, prompt: list[int], params: SamplingParams) -> int:
        bad_words = bad_word_ids(self.tokenizer, params.bad_words)
        request = self._engine.new_request(prompt, params, bad_words=bad_words)
        self._engine.add(request)
        self._answers[request.id] = Answer(prompt, OutputText(self.tokenizer.detokenizer(prompt), request))
        return request.id

    def _read(self, prompt: list[int], params: SamplingParams) -> Iterator[Delta]:
        request_id = self._start(prompt, params)
        answer = self._answers[request_id]
        read = 0
        try:
            while not (read and answer.deltas[read - 1].finish_reason):
                while read == len(answer.deltas):
                    self._pump()
                    _raise_errors([answer])
                yield answer.deltas[read]
                read += 1
        finally:
            self._drop(request_id)

    def _pump(self) -> None:
        """Run one step and hand each request what it got; a failure is left with the requests that it ended."""
        try:
            outputs = self._engine.step()
        except Exception as error:
            for request_id in [one for one in self._answers if one not in self._engine]:
                self._answers.pop(request_id).error = error
            return
        for output in outputs:
            delta = self._answers[output.request_id].add(output)
            if delta.finish_reason:
                self._drop(output.request_id)

    def _drop(self, request_id: int) -> None:
        """Let go of a request, finished or not."""
        self._engine.abort(request_id)
        self._answers.pop(request_id, None)


def _raise_errors(answers: Iterable[Answer]) -> None:
    for answer in answers:
        if answer.error is not None:
            raise EngineError("The device failed in a step", found=str(answer.error)) from answer.error
