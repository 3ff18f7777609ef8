"""The ASGI application: routes over a service, behind the guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warploom.runtime.server.endpoints import ENDPOINTS, PAGES, Endpoint, Page, model_card
from warploom.runtime.server.errors import APIError, malformed_body
from warploom.runtime.server.guard import Guard
from warploom.runtime.server.openapi import openapi_document
from warploom.runtime.server.replies import HealthReply
from warploom.runtime.server.responses import EventResponse, json_response, read_body, until_gone
from warploom.runtime.server.service import Caller, Service
from warploom.runtime.server.streaming import EventStream

Respond = Callable[[Request], Awaitable[Response]]
# The page loads nothing and runs only what is written in it.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def build_app(service: Service, *, api_keys: Sequence[str] = (), loopback: bool = False) -> ASGIApp:
    """Return the application.

    Args:
        api_keys: any of them opens everything; none: everything is open.
        loopback: the server listens on this machine only; see `Guard`.
    """
    document = msgspec.json.encode(openapi_document(bool(api_keys)))
    routes = [Route(endpoint.path, _post(service, endpoint), methods=["POST"]) for endpoint in ENDPOINTS]
    routes += [Route(page.path, _get(service, page), methods=["GET"]) for page in PAGES]
    routes += [
        Route("/v1/models/{name:path}", _model(service), methods=["GET"]),
        Route("/metrics", _text(service.metrics.text, "text/plain; version=0.0.4; charset=utf-8"), methods=["GET"]),
        Route("/openapi.json", _text(lambda: document, "application/json"), methods=["GET"]),
        Route("/", _text(_page, "text/html; charset=utf-8", _PAGE_POLICY), methods=["GET"]),
    ]
    return _Counted(Guard(Router(routes, redirect_slashes=False), api_keys, loopback=loopback), service)


_PATHS = {one.path for one in (*ENDPOINTS, *PAGES)} | {"/", "/metrics", "/openapi.json"}


class _Counted:
    """Counts answers by path and status."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._requests = app, service.metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request."""
        scope["app"] = self  # so that Starlette raises what it refuses, and the guard gives it our shape

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_and_count)

    def _count(self, scope: Scope, status: object) -> None:
        path = scope.get("path")
        self._requests.labels(path if path in _PATHS else "other", str(status)).inc()


def _post(service: Service, endpoint: Endpoint) -> Respond:
    decoder = msgspec.json.Decoder(endpoint.body)

    async def respond(request: Request) -> Response:
        if service.draining:
            raise APIError(503, "The server is shutting down.", headers={"Retry-After": "5"})
        if not endpoint.generates:
            return await answer(request)
        service.enter()
        try:
            return await answer(request)
        finally:
            service.leave()

    async def answer(request: Request) -> Response:
        data = await read_body(request, service.limits)
        try:
            body = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed_body(error) from error
        caller = Caller(request.state.tenant, request.state.request_id)
        reply = await until_gone(request.receive, endpoint.handler(service, body, caller))
        if isinstance(reply, EventStream):
            return EventResponse(reply, service.limits.write_seconds)
        return json_response(reply)

    return respond


def _get(service: Service, page: Page) -> Respond:
    async def respond(request: Request) -> Response:
        reply = page.read(service)
        alive = not isinstance(reply, HealthReply) or reply.status == "ok"
        return json_response(reply, 200 if alive else 503)

    return respond


def _model(service: Service) -> Respond:
    async def respond(request: Request) -> Response:
        service.check_model(request.path_params["name"])
        return json_response(model_card(service))

    return respond


def _text(read: Callable[[], bytes], kind: str, policy: str = "default-src 'none'") -> Respond:
    async def respond(request: Request) -> Response:
        return Response(read(), headers={"Content-Security-Policy": policy}, media_type=kind)

    return respond


@cache
def _page() -> bytes:
    return files("warploom.runtime.server").joinpath("chat.html").read_bytes()
