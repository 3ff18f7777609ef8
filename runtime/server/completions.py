"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from warploom.runtime.output import Delta
from warploom.runtime.request import TokenLogprobs
from warploom.runtime.server.generation import Answer, Generation
from warploom.runtime.server.limits import RequestError
from warploom.runtime.server.replies import CompletionChoice, CompletionReply, PromptLogprobs, Usage
from warploom.runtime.server.requests import CompletionRequest
from warploom.runtime.server.sampling import completion_params
from warploom.runtime.server.service import Caller, ReplyHead, Service
from warploom.runtime.server.streaming import PLACEHOLDER, Reply, reply
from warploom.runtime.server.token_logprobs import LogprobWriter


async def complete(service: Service, request: CompletionRequest, caller: Caller) -> Reply:
    """Answer a request; everything that is refused is refused here, before anything is sent."""
    service.check_model(request.model)
    params = completion_params(request, service.llm.default_params, service.limits)
    head = service.head("cmpl", request, caller)
    prompts = await _prompts(service, request)
    generation = await service.generate(request, prompts, params, caller)
    return await reply(generation, CompletionWriter(service, request, head, generation), request)


async def _prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    """Return the token ids of each prompt, whichever of the four forms they have."""
    prompt = request.prompt
    given: Sequence[str | int | list[int]] = [prompt] if isinstance(prompt, str) else prompt
    if any(isinstance(one, int) for one in given):
        given = [[_token(one) for one in given]]
    service.limits.check("prompt", len(given), "prompts")
    if not given:
        raise RequestError("prompt", "at least one prompt", "none")
    texts = [one for one in given if isinstance(one, str)]
    is_cut = request.truncate_prompt_tokens is not None
    encoded = iter(await service.encode(texts, request.add_special_tokens is not False, is_cut))
    return [next(encoded) if isinstance(one, str) else _tokens(one) for one in given]


def _token(value: str | int | list[int]) -> int:
    if not isinstance(value, int):
        raise RequestError("prompt", "texts, token ids, or lists of token ids, not a mixture")
    return value


def _tokens(value: int | list[int]) -> list[int]:
    assert isinstance(value, list)
    return value


class CompletionWriter:
    """Writes the answers to one request."""

    def __init__(self, service: Service, request: CompletionRequest, head: ReplyHead, generation: Generation) -> None:
        self._service, self._request, self._head, self._generation = service, request, head, generation
        as_ids = request.return_tokens_as_token_ids is True
        self._logprobs = [
            LogprobWriter(service.llm.tokenizer, as_ids=as_ids) for _ in range(generation.num_answers)
        ]  # fmt: skip
        self._begun: set[int] = set()

    def opening(self) -> Iterator[CompletionReply]:
        """What a stream begins with: nothing."""
        return iter(())

    def pieces(self, number: int, delta: Delta, usage: Usage | None) -> Iterator[CompletionReply]:
        """Yield the event of a delta."""
        yield self._reply([self._choice(number, Answer.of(delta))], usage)

    def text_piece(self, number: int) -> CompletionReply:
        """Return the event of a delta of text only."""
        return self._reply([CompletionChoice(number, PLACEHOLDER, None, None, None)], None)

    def last(self, usage: Usage) -> CompletionReply:
        """Return the event that tells the usage."""
        return self._reply([], usage)

    def whole(self, answers: Sequence[Answer], usage: Usage) -> CompletionReply:
        """Return the body of an answer that is not streamed."""
        each = self._generation.num_each
        for number, answer in enumerate(answers):
            answer.prompt_logprobs = answers[number - number % each].prompt_logprobs
        return self._reply([self._choice(number, answer) for number, answer in enumerate(answers)], usage)

    def _choice(self, number: int, answer: Answer) -> CompletionChoice:
        text = "".join(answer.text) + stop_text(self._request.include_stop_str_in_output, answer)
        entries: list[TokenLogprobs | int] = [*answer.logprobs]
        if self._request.echo and number not in self._begun:
            text = self._prompt_text(number) + text
            first = self._generation.prompts[number // self._generation.num_each][0]
            entries = [first, *(answer.prompt_logprobs or ()), *entries]
        self._begun.add(number)
        wanted = self._request.logprobs is not None
        logprobs = self._logprobs[number].completion(entries) if wanted else None
        told: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
        if self._request.prompt_logprobs is not None:
            told = self._logprobs[number].prompt(answer.prompt_logprobs or ())
        return CompletionChoice(number, text, logprobs, answer.finish_reason, answer.stop_reason, told)

    def _prompt_text(self, number: int) -> str:
        prompts, prompt = self._generation.prompts, self._request.prompt
        place = number // self._generation.num_each
        given = prompt if isinstance(prompt, str) else prompt[place] if len(prompt) > place else ""
        if isinstance(given, str) and self._request.truncate_prompt_tokens is None:
            return given
        return self._service.llm.tokenizer.decode(prompts[place])

    def _reply(self, choices: list[CompletionChoice], usage: Usage | None) -> CompletionReply:
        head, told = self._head, msgspec.UNSET if usage is None else usage
        return CompletionReply(head.id, head.created, head.model, choices, head.system_fingerprint, told)


def stop_text(included: bool | None, answer: Answer) -> str:
    """Return the stop string that ended an answer, if the request wants to see it."""
    return answer.stop_reason if included and isinstance(answer.stop_reason, str) else ""
