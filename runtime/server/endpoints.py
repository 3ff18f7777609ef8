"""The table of endpoints, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from warploom.runtime.server.chat import chat
from warploom.runtime.server.completions import complete
from warploom.runtime.server.health import health
from warploom.runtime.server.replies import (
    ChatChunk,
    ChatReply,
    CompletionReply,
    DetokenizeReply,
    HealthReply,
    ModelCard,
    ModelList,
    TokenizeReply,
    VersionReply,
)
from warploom.runtime.server.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from warploom.runtime.server.service import Caller, Service
from warploom.runtime.server.streaming import Reply
from warploom.runtime.server.tokenization import detokenize, tokenize
from warploom.version import __version__

Handler: TypeAlias = Callable[[Service, Any, Caller], Coroutine[Any, Any, Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path that takes a JSON body and gives one.

    Attributes:
        body, reply: what it takes and gives. event: what its streams are made of, if it has streams.
        generates: it runs the model, so that it counts as a request under way.
    """

    path: str
    handler: Handler
    body: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    what: str
    event: type[msgspec.Struct] | None = None
    generates: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A path that is asked without a body."""

    path: str
    read: Callable[[Service], msgspec.Struct]
    reply: type[msgspec.Struct]
    what: str


def models(service: Service) -> ModelList:
    """Return the served model."""
    return ModelList([model_card(service)])


def model_card(service: Service) -> ModelCard:
    """Return what is told of the served model."""
    return ModelCard(service.model_name, service.created, service.model_name, service.llm.max_context)


def version(service: Service) -> VersionReply:
    """Return the version of this server."""
    return VersionReply(__version__)


ENDPOINTS = (
    Endpoint(
        "/v1/completions", complete, CompletionRequest, CompletionReply, "Continue prompts", CompletionReply, True
    ),
    Endpoint("/v1/chat/completions", chat, ChatRequest, ChatReply, "Answer a conversation", ChatChunk, True),
    Endpoint("/tokenize", tokenize, TokenizeRequest, TokenizeReply, "The tokens of a text or a conversation"),
    Endpoint("/detokenize", detokenize, DetokenizeRequest, DetokenizeReply, "The text of tokens"),
)
PAGES = (
    Page("/v1/models", models, ModelList, "The served model, as a list"),
    Page("/health", health, HealthReply, "Whether the engine is alive; 503 if not. Needs no key"),
    Page("/ping", health, HealthReply, "As /health"),
    Page("/version", version, VersionReply, "The version of the server"),
)
