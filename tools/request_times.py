"""How answers came: the times of one request's tokens, from a model in this process or from a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from warploom.errors import WarploomError
from warploom.runtime.async_llm import AsyncLLM
from warploom.tools.workload import Work

_ANSWER_SECONDS = 600


@dataclass
class RequestTimes:
    """One request; seconds of `time.perf_counter`.

    Attributes:
        pieces: when each piece of the answer came, and its tokens. error: why it has no end.
    """

    sent: float
    num_prompt_tokens: int
    pieces: list[tuple[float, int]] = field(default_factory=list)
    error: str | None = None

    @property
    def num_tokens(self) -> int:
        """Of the answer."""
        return sum(number for _, number in self.pieces)

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first piece."""
        return self.pieces[0][0] - self.sent

    @property
    def total(self) -> float:
        """Seconds from sending to the last piece."""
        return self.pieces[-1][0] - self.sent

    @property
    def tpot(self) -> float:
        """(last piece - first piece) / (tokens - 1), in seconds; 0 if there is one token."""
        return (self.total - self.ttft) / (self.num_tokens - 1) if self.num_tokens > 1 else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces (ITL)."""
        return [after - before for (before, _), (after, _) in pairwise(self.pieces)]


class Answerer(Protocol):
    """Something that answers requests."""

    async def answer(self, work: Work) -> RequestTimes:
        """Return the times of one request, with its error if it failed."""
        ...


class InProcess:
    """A model in this process: the engine and its threads, without HTTP."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm

    async def answer(self, work: Work) -> RequestTimes:
        """See `Answerer`."""
        times = RequestTimes(time.perf_counter(), len(work.prompt))
        try:
            async for delta in self._llm.generate(work.prompt, work.params):
                times.pieces.append((time.perf_counter(), len(delta.token_ids)))
        except WarploomError as error:
            times.error = str(error)
        return times


class OverHttp:
    """A server with OpenAI's API, any: streamed completions, token ids as prompts, one connection per request.

    Args:
        url: like http://127.0.0.1:8000
    """

    def __init__(self, url: str, model: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        self._host, self._model, self._encrypted = parts.hostname or "", model, parts.scheme == "https"
        self._port = parts.port or (443 if self._encrypted else 80)
        headers = ["POST /v1/completions HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
        if api_key:
            headers.append(f"Authorization: Bearer {api_key}")
        self._head = "\r\n".join([*headers, "Connection: close", "Content-Length: "])

    async def answer(self, work: Work) -> RequestTimes:
        """See `Answerer`."""
        params = work.params
        body = msgspec.json.encode({
            "model": self._model, "prompt": work.prompt, "max_tokens": params.max_tokens, "seed": params.seed,
            "temperature": params.temperature, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        })  # fmt: skip
        times = RequestTimes(time.perf_counter(), len(work.prompt))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._encrypted or None)
                try:
                    writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
                    await _note_answer(times, reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            times.error = repr(error)
        return times


async def _note_answer(times: RequestTimes, reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = head.split(maxsplit=2)[1]
    chunks = _chunks(reader, b"transfer-encoding: chunked" in head)
    if status != b"200":
        body = b"".join([chunk async for chunk in chunks])
        times.error = f"HTTP status {status.decode()}: {body[:300]!r}"
        return
    seen = 0
    async for event in _events(chunks):
        if "error" in event:
            times.error = str(event["error"])
            return
        usage = event.get("usage") or {}
        number = usage.get("completion_tokens", seen + 1)  # a server without counts: a token per event
        if event.get("choices") and number > seen:
            times.pieces.append((time.perf_counter(), number - seen))
            seen = number


async def _chunks(reader: asyncio.StreamReader, framed: bool) -> AsyncIterator[bytes]:
    """The pieces of a body, in the framing of RFC 9112, section 7.1, or up to the end of the connection."""
    while not framed:
        data = await reader.read(1 << 16)
        if not data:
            return
        yield data
    while size := int((await reader.readline()).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream up to [DONE]."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if data and line.startswith(b"data:"):
                yield msgspec.json.decode(data)
