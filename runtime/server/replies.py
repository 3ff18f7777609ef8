"""The bodies of answers, in OpenAI's shapes (vLLM's where OpenAI has none)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Finish: TypeAlias = Literal["stop", "length", "tool_calls", "abort"]


class CachedTokens(msgspec.Struct, frozen=True):
    """How much of a prompt was found in the cache."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities as parallel lists, one entry per token; the first token of an echoed prompt has none."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None


class PromptLogprob(msgspec.Struct, frozen=True):
    """The log-probability of a token at a place of the prompt; `rank`: 1 is the likeliest, null is not told."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs: TypeAlias = list[dict[int, PromptLogprob] | None]  # by token id; the first token has none


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer of `/v1/completions`, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None
    stop_reason: int | str | None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET


class CompletionReply(msgspec.Struct, frozen=True):
    """The body of an answer of `/v1/completions`, and of each event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "text_completion"


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the likeliest tokens at a place; `bytes` are those of its text."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct, frozen=True):
    """The chosen token at a place, and the likeliest ones."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The log-probabilities of a message's tokens."""

    content: list[ChatLogprob]


class FunctionPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call's name and arguments (JSON text), or a piece of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCallPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call, or a piece of one; `index` is given in streams only."""

    function: FunctionPiece
    id: str | None = None
    type: str | None = None
    index: int | None = None


class AssistantMessage(msgspec.Struct, frozen=True):
    """The message of a whole answer."""

    content: str | None
    tool_calls: list[ToolCallPiece] | msgspec.UnsetType = msgspec.UNSET
    role: str = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer of `/v1/chat/completions`."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    stop_reason: int | str | None


class ChatReply(msgspec.Struct, frozen=True):
    """The body of an answer of `/v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    system_fingerprint: str
    usage: Usage
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    object: str = "chat.completion"


class MessageDelta(msgspec.Struct, frozen=True):
    """What a piece adds to a message."""

    role: str | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallPiece] | msgspec.UnsetType = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """A piece of one answer."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    stop_reason: int | str | msgspec.UnsetType | None = msgspec.UNSET


class ChatChunk(msgspec.Struct, frozen=True):
    """An event of a streamed answer of `/v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    system_fingerprint: str
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"


class ModelCard(msgspec.Struct, frozen=True):
    """The served model."""

    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "warploom"
    parent: None = None


class ModelList(msgspec.Struct, frozen=True):
    """The answer of `/v1/models`."""

    data: list[ModelCard]
    object: str = "list"


class TokenizeReply(msgspec.Struct, frozen=True):
    """The answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(msgspec.Struct, frozen=True):
    """The answer of `/detokenize`."""

    prompt: str


class HealthReply(msgspec.Struct, frozen=True):
    """The answer of `/health`.

    Attributes:
        status: "ok", or why the server is not: "hung", "dead" or "draining".
        heartbeat_age_s: seconds since the engine's last sign of life; 0 when idle.
    """

    status: Literal["ok", "hung", "dead", "draining"]
    heartbeat_age_s: float
    running: int
    waiting: int


class VersionReply(msgspec.Struct, frozen=True):
    """The answer of `/version`."""

    version: str
