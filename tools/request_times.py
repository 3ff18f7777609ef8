"""How answers came: the times of one request's tokens, from a model in this process or from a server."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol
from urllib.parse import urlsplit

from warploom.errors import WarploomError
from warploom.runtime.async_llm import AsyncLLM
from warploom.tools.workload import Work


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
        self._host, self._model = parts.netloc, model
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def answer(self, work: Work) -> RequestTimes:
        """See `Answerer`."""
        return await asyncio.to_thread(self._answer, work)

    def _answer(self, work: Work) -> RequestTimes:
        params = work.params
        body = {
            "model": self._model, "prompt": work.prompt, "max_tokens": params.max_tokens, "seed": params.seed,
            "temperature": params.temperature, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }  # fmt: skip
        times = RequestTimes(time.perf_counter(), len(work.prompt))
        connection = self._connect(self._host, timeout=600)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), self._headers)
            response = connection.getresponse()
            if response.status != 200:
                times.error = f"HTTP status {response.status}: {response.read(300)!r}"
                return times
            _note_events(times, response)
        except (OSError, http.client.HTTPException) as error:
            times.error = repr(error)
        finally:
            connection.close()
        return times


def _note_events(times: RequestTimes, response: http.client.HTTPResponse) -> None:
    seen = 0
    for event in _events(response):
        if "error" in event:
            times.error = str(event["error"])
            return
        usage = event.get("usage") or {}
        number = usage.get("completion_tokens", seen + 1)  # a server without counts: a token per event
        if event.get("choices") and number > seen:
            times.pieces.append((time.perf_counter(), number - seen))
            seen = number


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream up to [DONE]."""
    while line := response.readline():
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if data and line.startswith(b"data:"):
            yield json.loads(data)
