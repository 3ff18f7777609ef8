"""The OpenAPI document, derived from the table of endpoints and the types of their bodies."""

from __future__ import annotations

from typing import Any

import msgspec

from warploom.runtime.server.endpoints import ENDPOINTS, PAGES, Endpoint
from warploom.runtime.server.errors import ErrorBody
from warploom.runtime.server.guard import OPEN_PATHS
from warploom.version import __version__

_ERRORS = {
    "400": "The request is not valid",
    "401": "No valid API key",
    "403": "The request is for another host",
    "404": "There is no such model",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "The queue is full; see Retry-After",
    "500": "The model's output was unusable",
    "503": "The engine has failed, or the server is shutting down",
    "504": "The answer was not finished in time",
}


def openapi_document(with_keys: bool) -> dict[str, Any]:
    """Return the document; `with_keys`: the server asks for API keys."""
    types = [one for endpoint in ENDPOINTS for one in (endpoint.body, endpoint.reply, endpoint.event) if one]
    types += [page.reply for page in PAGES] + [ErrorBody]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(types)), ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {endpoint.path: {"post": _post(endpoint)} for endpoint in ENDPOINTS}
    for page in PAGES:
        responses: dict[str, Any] = {"200": _content("Success", page.reply), **_errors("401", "403")}
        if page.path in ("/health", "/ping"):
            responses["503"] = _content("The engine is not alive", page.reply)
        security: dict[str, Any] = {"security": []} if page.path in OPEN_PATHS else {}
        paths[page.path] = {"get": {"summary": page.what, "responses": responses, **security}}
    paths["/metrics"] = {"get": _plain("Metrics for Prometheus", "text/plain")}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Warploom", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if with_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _post(endpoint: Endpoint) -> dict[str, Any]:
    success = _content("Success", endpoint.reply)
    if endpoint.event:
        success["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": endpoint.what,
        "requestBody": {"required": True, "content": _json(endpoint.body)},
        "responses": {"200": success, **_errors(*_ERRORS)},
    }


def _plain(what: str, kind: str) -> dict[str, Any]:
    success = {"description": "Success", "content": {kind: {"schema": {"type": "string"}}}}
    return {"summary": what, "responses": {"200": success, **_errors("401", "403")}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: _content(_ERRORS[status], ErrorBody) for status in statuses}


def _content(description: str, body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"description": description, "content": _json(body)}


def _json(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
