"""What stands before all endpoints: who may ask, from where, and in what form.

Nothing but `/health` is open when there are keys, whatever the path, its case or the headers (CVE-2026-48746: routes
decide, not prefixes). Keys are compared in constant time (CVE-2025-59425).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warploom.runtime.server.errors import APIError, as_api_error
from warploom.runtime.server.responses import ClientGoneError, error_response

OPEN_PATHS = frozenset({"/health"})
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Guard:
    """ASGI middleware in front of the application.

    It sets `tenant` and `request_id` in the scope's state, and answers whatever the application raises.

    Args:
        api_keys: any of them is accepted; none: everybody is.
        loopback: the server listens on this machine only, so that a `Host` that names another one comes from a web
            page that was made to reach us (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], *, loopback: bool) -> None:
        self._app = app
        self._digests = [_digest(key) for key in api_keys]
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        request_id = request_id if _REQUEST_ID.fullmatch(request_id) else ""
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_extra_headers(request_id)]
            await send(message)

        try:
            scope.setdefault("state", {}).update(tenant=self._admit(scope["path"], headers), request_id=request_id)
            await self._app(scope, receive, send_and_note)
        except (ClientGoneError, ClientDisconnect):
            return
        except Exception as error:
            answer = error_response(as_api_error(error))
            if not begun:
                await answer(scope, receive, send_and_note)

    def _admit(self, path: str, headers: Headers) -> str:
        """Return the tenant; APIError if the request may not pass."""
        if "transfer-encoding" in headers and "content-length" in headers:
            close = {"Connection": "close"}
            raise APIError(400, "A request cannot have both Transfer-Encoding and Content-Length.", headers=close)
        if self._loopback and not _is_local(headers.get("host", "")):
            raise APIError(403, "This server answers requests to this machine only.")
        if not self._digests or path in OPEN_PATHS:
            return ""
        digest = _digest(_given_key(headers))
        matches = [hmac.compare_digest(digest, one) for one in self._digests]
        if not any(matches):
            raise APIError(401, "A valid API key is needed.", headers={"WWW-Authenticate": 'Basic realm="warploom"'})
        return f"key-{matches.index(True)}"


def _given_key(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer KEY`, or the password of Basic, which browsers ask for."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()


def _is_local(host: str) -> bool:
    """Whether a `Host` header names this machine, or no machine by name."""
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _extra_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    fixed = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
    return [*fixed, *([(b"x-request-id", request_id.encode())] if request_id else [])]
