"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from warploom.runtime.output import Delta
from warploom.runtime.request import TokenLogprobs
from warploom.runtime.server.completions import stop_text
from warploom.runtime.server.errors import APIError
from warploom.runtime.server.generation import Answer, Generation
from warploom.runtime.server.limits import RequestError
from warploom.runtime.server.replies import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatReply,
    Finish,
    FunctionPiece,
    MessageDelta,
    PromptLogprobs,
    ToolCallPiece,
    Usage,
)
from warploom.runtime.server.requests import ChatRequest, NamedToolChoice
from warploom.runtime.server.sampling import chat_params
from warploom.runtime.server.service import Caller, ReplyHead, Service
from warploom.runtime.server.streaming import PLACEHOLDER, Reply, reply
from warploom.runtime.server.token_logprobs import LogprobWriter
from warploom.runtime.server.tool_calls import (
    BareParser,
    CallArguments,
    CallStart,
    Content,
    Event,
    NamedCallParser,
    ToolParser,
    are_valid,
    new_parser,
)


async def chat(service: Service, request: ChatRequest, caller: Caller) -> Reply:
    """Answer a request; everything that is refused is refused here, before anything is sent."""
    service.check_model(request.model)
    if request.echo:
        raise RequestError("echo", "to be left out", what="The parameter echo is not supported for chats")
    params = chat_params(request, service.llm.default_params, service.limits)
    _check_tools(service, request)
    head = service.head("chatcmpl", request, caller)
    prompt = await service.encode_chat(request, with_tools=request.tool_choice != "none")
    generation = await service.generate(request, [prompt], params, caller)
    return await reply(generation, ChatWriter(service, request, head, generation), request)


def _check_tools(service: Service, request: ChatRequest) -> None:
    if request.tool_choice not in (None, "none") and not request.tools:
        raise RequestError("tool_choice", "tools to choose from")
    if request.tools and request.tool_choice != "none" and service.tool_format is None:
        raise APIError(400, "This model's chat template knows no tools.", param="tools")


class ChatWriter:
    """Writes the answers to one request."""

    def __init__(self, service: Service, request: ChatRequest, head: ReplyHead, generation: Generation) -> None:
        self._service, self._request, self._head = service, request, head
        count = generation.num_answers
        as_ids = request.return_tokens_as_token_ids is True
        self._logprobs = [LogprobWriter(service.llm.tokenizer, as_ids=as_ids) for _ in range(count)]
        self._parsers = [self._parser() for _ in range(count)]
        self._called = [False] * count

    def opening(self) -> Iterator[ChatChunk]:
        """The role of each answer."""
        for number in range(len(self._called)):
            yield self._chunk([ChatChunkChoice(number, MessageDelta(role="assistant", content=""))], None)

    def pieces(self, number: int, delta: Delta, usage: Usage | None) -> Iterator[ChatChunk]:
        """Yield the events of a delta: those of tool calls one by one, the last one with the reason of the end."""
        answer = Answer.of(delta)
        changes = [_change(event) for event in self._events(number, answer)]
        logprobs = self._chat_logprobs(number, answer.logprobs) if answer.logprobs else None
        if delta.finish_reason is None and not changes and logprobs is None:
            return
        *before, last = changes or [MessageDelta(content="")]
        for change in before:
            yield self._chunk([ChatChunkChoice(number, change)], None)
        finish = self._finish(number, answer)
        stop_reason = delta.stop_reason if finish else msgspec.UNSET
        yield self._chunk([ChatChunkChoice(number, last, logprobs, finish, stop_reason)], usage)

    def text_piece(self, number: int) -> ChatChunk | None:
        """Return the event of a delta of text only, which may be part of a tool call if there are tools."""
        if self._parsers[number] is not None:
            return None
        return self._chunk([ChatChunkChoice(number, MessageDelta(content=PLACEHOLDER))], None)

    def last(self, usage: Usage) -> ChatChunk:
        """Return the event that tells the usage."""
        return self._chunk([], usage)

    def whole(self, answers: Sequence[Answer], usage: Usage) -> ChatReply:
        """Return the body of an answer that is not streamed."""
        head = self._head
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        told: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
        if self._request.prompt_logprobs is not None:
            told = self._logprobs[0].prompt(answers[0].prompt_logprobs or ())
        return ChatReply(head.id, head.created, head.model, choices, head.system_fingerprint, usage, told)

    def _choice(self, number: int, answer: Answer) -> ChatChoice:
        text = "".join(answer.text)
        events = self._events(number, answer)
        calls = _calls(events)
        if not are_valid([call.function.arguments or "" for call in calls]):
            events, calls, self._called[number] = [Content(text)], [], False
        content = "".join(event.text for event in events if isinstance(event, Content))
        message = AssistantMessage(content if content or not calls else None, calls or msgspec.UNSET)
        logprobs = self._chat_logprobs(number, answer.logprobs) if self._request.logprobs else None
        finish = self._finish(number, answer) or "stop"
        return ChatChoice(number, message, logprobs, finish, answer.stop_reason)

    def _events(self, number: int, answer: Answer) -> list[Event]:
        """Return what a piece of an answer makes certain, or all of a whole one."""
        text = "".join(answer.text) + stop_text(self._request.include_stop_str_in_output, answer)
        parser = self._parsers[number]
        if parser is None:
            return [Content(text)] if text else []
        events = parser.push(text) + (parser.finish() if answer.finish_reason else [])
        if self._request.parallel_tool_calls is False:
            events = [event for event in events if isinstance(event, Content) or event.call == 0]
        self._called[number] |= any(isinstance(event, CallStart) for event in events)
        return events

    def _finish(self, number: int, answer: Answer) -> Finish | None:
        return "tool_calls" if answer.finish_reason == "stop" and self._called[number] else answer.finish_reason

    def _parser(self) -> ToolParser | None:
        tools, choice = self._request.tools, self._request.tool_choice
        if not tools or choice == "none" or self._service.tool_format is None:
            return None
        if isinstance(choice, NamedToolChoice):
            return NamedCallParser(choice.function.name)
        if choice == "required":
            return BareParser(None, ("[",))
        return new_parser(self._service.tool_format, {tool.function.name for tool in tools})

    def _chat_logprobs(self, number: int, entries: Sequence[TokenLogprobs]) -> ChatLogprobs:
        return self._logprobs[number].chat(entries)

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None) -> ChatChunk:
        head, told = self._head, msgspec.UNSET if usage is None else usage
        return ChatChunk(head.id, head.created, head.model, choices, head.system_fingerprint, told)


def _change(event: Event) -> MessageDelta:
    """What an event adds to the streamed message."""
    match event:
        case Content(text):
            return MessageDelta(content=text)
        case CallStart(index, identity, name):
            return MessageDelta(tool_calls=[ToolCallPiece(FunctionPiece(name, ""), identity, "function", index)])
        case CallArguments(index, text):
            return MessageDelta(tool_calls=[ToolCallPiece(FunctionPiece(arguments=text), index=index)])


def _calls(events: Sequence[Event]) -> list[ToolCallPiece]:
    """The calls of a whole answer."""
    calls = []
    pieces = [event for event in events if not isinstance(event, Content)]
    for _, group in groupby(pieces, key=lambda event: event.call):
        start, *rest = group
        assert isinstance(start, CallStart)
        arguments = "".join(piece.text for piece in rest if isinstance(piece, CallArguments)) or "{}"
        calls.append(ToolCallPiece(FunctionPiece(start.name, arguments), start.id, "function"))
    return calls
