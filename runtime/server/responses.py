"""Reading bodies and writing answers over ASGI, with an eye on clients that come late or go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from warploom.runtime.server.errors import APIError
from warploom.runtime.server.limits import Limits
from warploom.runtime.server.streaming import EventStream

_Result = TypeVar("_Result")


class ClientGoneError(Exception):
    """The client has closed the connection; there is nobody to answer."""


def json_response(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer with a JSON body."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def error_response(error: APIError) -> Response:
    """Return an answer with OpenAI's error body; the connection is not used again if a body may be left unread."""
    headers = {"Connection": "close"} if error.status in (401, 403, 408, 413, 415) else {}
    return json_response(error.body, error.status, {**error.headers, **headers})


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        APIError: it is not said to be JSON, it is too large, or it does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise APIError(415, "The Content-Type must be application/json.")
    too_large = APIError(413, f"The request body is larger than {limits.body_bytes} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 18 or int(length) > limits.body_bytes):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as error:
        raise APIError(408, f"The request body did not come within {limits.body_seconds} s.") from error
    return bytes(body)


async def until_gone(receive: Receive, work: Coroutine[Any, Any, _Result], *ends: Coroutine[Any, Any, None]) -> _Result:
    """Return the result of `work`, which is cancelled when the client goes away or one of `ends` returns.

    Raises:
        ClientGoneError: it was.
    """
    task = asyncio.ensure_future(work)
    watches = [asyncio.ensure_future(one) for one in (_gone(receive), *ends)]
    try:
        await asyncio.wait((task, *watches), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return await task
    finally:
        for one in (task, *watches):
            one.cancel()
        await asyncio.gather(task, *watches, return_exceptions=True)


class EventResponse(Response):
    """A streamed answer. When the client goes away, or does not read, what is unfinished is cancelled."""

    def __init__(self, stream: EventStream, write_seconds: float) -> None:
        self.status_code, self.background = 200, None
        self._stream, self._write_seconds = stream, write_seconds
        self._num_begun = self._num_sent = 0  # pieces
        self.init_headers({"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            with contextlib.suppress(ClientGoneError):
                await until_gone(receive, self._send(send), self._stalled())
        finally:
            await self._stream.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._stream.events()) as events:
            async for piece in events:
                self._num_begun += 1
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._num_sent += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stalled(self) -> None:
        """Return when one piece has not been taken for long; a timer for each piece would cost more than sending it."""
        stuck = -1
        while self._num_sent != stuck:
            stuck = self._num_sent if self._num_begun > self._num_sent else -1
            await asyncio.sleep(self._write_seconds)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
