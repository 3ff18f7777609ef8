"""From exceptions to OpenAI's error bodies: `{"error": {"message", "type", "param", "code"}}`.

A client's mistake is explained to it. Of our own failures it learns the kind only; the rest goes to the log, since
messages of libraries hold paths and addresses (CVE-2026-22778, CVE-2026-54236).
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException

from warploom.errors import DeadlineError, EngineDeadError, EngineError, InvalidRequestError, QueueFullError

logger = logging.getLogger("warploom.server")

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")
_PATH = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]+")
_MAX_MESSAGE = 2000


class ErrorInfo(msgspec.Struct, frozen=True):
    """What went wrong. `code` is the HTTP status, `param` the field of the request if one is to blame."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorInfo


class APIError(Exception):
    """An answer that is an error.

    Attributes:
        body: what is sent. headers: beside the usual ones.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.body = ErrorBody(ErrorInfo(_sanitized(message), _type_of(status), param, status))
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.body.error.code


def as_api_error(error: Exception) -> APIError:
    """Return what a client is told of `error`; what it is not told is logged."""
    match error:
        case APIError():
            return error
        case HTTPException():
            return APIError(error.status_code, error.detail, headers=dict(error.headers or {}))
        case InvalidRequestError():
            return APIError(400, _one_line(error), param=error.param)
        case QueueFullError():
            wait = {"Retry-After": str(max(1, round(error.retry_after_s)))}
            return APIError(429, "The server is busy: its queue is full. Try again later.", headers=wait)
        case DeadlineError():
            return APIError(504, "The answer was not finished in time.")
        case EngineDeadError():
            logger.error("a request met a dead engine: %s", error)
            return APIError(503, "The engine has failed.")
        case EngineError():
            return APIError(503, "The server is shutting down.", headers={"Retry-After": "5"})
    logger.exception("unexpected failure of a request", exc_info=error)
    return APIError(500, "Internal server error.")


def malformed_body(error: Exception) -> APIError:
    """Return the error of a body that does not decode into what was expected."""
    message = str(error)
    place = re.search(r" - at `\$\.?(?P<path>[^`]*)`$", message)
    param = re.split(r"[.\[]", place["path"])[0] if place else ""
    if isinstance(error, RecursionError):
        message = "too many levels of nesting"
    return APIError(400, f"The request body is not valid: {message}", param=param or None)


def _type_of(status: int) -> str:
    """OpenAI's name for a kind of error."""
    named = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
    return named.get(status, "server_error" if status >= 500 else f"{HTTPStatus(status).name.lower()}_error")


def _one_line(error: InvalidRequestError) -> str:
    parts = (("expected", error.expected), ("found", error.found), ("fix", error.fix))
    return "; ".join([error.what, *(f"{label}: {text}" for label, text in parts if text)])


def _sanitized(message: str) -> str:
    return _PATH.sub("(path)", _ADDRESS.sub("(address)", message[:_MAX_MESSAGE]))
