"""From the deltas of a request to what is sent: one body, or server-sent events.

An event is `data: JSON` and an empty line; the last one is `data: [DONE]`
(https://html.spec.whatwg.org/multipage/server-sent-events.html, and OpenAI's API for the end).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from warploom.runtime.guide import STUCK
from warploom.runtime.output import Delta
from warploom.runtime.server.errors import APIError, as_api_error, logger
from warploom.runtime.server.generation import Answer, Generation
from warploom.runtime.server.replies import Usage
from warploom.runtime.server.requests import GenerationRequest

Reply: TypeAlias = "msgspec.Struct | EventStream"
_DONE = b"data: [DONE]\n\n"
PLACEHOLDER = secrets.token_hex(16)  # a text that nobody can know


class Writer(Protocol):
    """Writes the answers to one request in the shape of its endpoint."""

    def opening(self) -> Iterable[msgspec.Struct]:
        """Return the events that stand in front of all deltas."""
        ...

    def pieces(self, number: int, delta: Delta, usage: Usage | None) -> Iterable[msgspec.Struct]:
        """Return the events of one delta of the answer `number`; `usage` if each event tells it."""
        ...

    def text_piece(self, number: int) -> msgspec.Struct | None:
        """Return the event of a delta that adds nothing but the text `PLACEHOLDER`, now that one has been written.

        None: what is written of a text depends on those before it.
        """
        ...

    def last(self, usage: Usage) -> msgspec.Struct:
        """Return the event that tells the usage."""
        ...

    def whole(self, answers: Sequence[Answer], usage: Usage) -> msgspec.Struct:
        """Return the body of an answer that is not streamed."""
        ...


async def reply(generation: Generation, writer: Writer, request: GenerationRequest) -> Reply:
    """Return the answer: a stream to be read, or a body once all is there.

    Raises:
        APIError: the model's output was unusable. DeadlineError, EngineError: as `OutputStream`.
    """
    if request.stream:
        return EventStream(generation, writer, request)
    async with generation:
        answers = await generation.collect()
    for answer in answers:
        if answer.finish_reason == "abort":
            raise _unusable(answer.stop_reason)
    return writer.whole(answers, generation.usage)


class EventStream:
    """The events of a streamed answer. It must be read to its end or closed."""

    def __init__(self, generation: Generation, writer: Writer, request: GenerationRequest) -> None:
        self._generation, self._writer = generation, writer
        options = request.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._always = self._tells_usage and bool(options and options.continuous_usage_stats)
        self._frames: dict[int, tuple[bytes, bytes] | None] = {}  # by answer: what stands around a text

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield the events; a failure on the way is one as well."""
        rest = b""  # what is sent together with the end
        try:
            async with self._generation:
                if opening := b"".join(map(event, self._writer.opening())):
                    yield opening
                async for number, delta in self._generation:
                    pieces = self._pieces(number, delta)
                    if self._generation.has_ended:
                        rest = pieces
                    elif pieces:
                        yield pieces
                if self._tells_usage:
                    rest += event(self._writer.last(self._generation.usage))
        except Exception as error:
            rest += event(as_api_error(error).body)
        yield rest + _DONE

    def _pieces(self, number: int, delta: Delta) -> bytes:
        """The events of a delta. Most add a text and nothing else: what stands around it is encoded once."""
        if delta.finish_reason is None and delta.logprobs is None and not self._always:
            frame = self._frames.get(number)
            if frame:
                return frame[0] + msgspec.json.encode(delta.text) + frame[1] if delta.text else b""
        elif delta.finish_reason == "abort":
            raise _unusable(delta.stop_reason)
        usage = self._generation.usage if self._always else None
        pieces = b"".join(map(event, self._writer.pieces(number, delta, usage)))
        if number not in self._frames:
            piece = self._writer.text_piece(number)
            self._frames[number] = _around_placeholder(event(piece)) if piece else None
        return pieces

    async def aclose(self) -> None:
        """Cancel what is unfinished."""
        async with self._generation:
            pass


def event(body: msgspec.Struct) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _around_placeholder(data: bytes) -> tuple[bytes, bytes]:
    before, _, after = data.partition(msgspec.json.encode(PLACEHOLDER))
    return before, after


def _unusable(reason: object) -> APIError:
    if str(reason).startswith(STUCK):
        return APIError(400, f"{STUCK}: the form is too complex, or other parameters ban what it needs.")
    logger.error("the output of a request was unusable: %s", reason)
    return APIError(500, "The model's output was unusable.")
