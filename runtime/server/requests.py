"""The bodies of requests, as OpenAI and (for what OpenAI lacks) vLLM name their fields.

Unknown fields are ignored, as all OpenAI-compatible servers do; known ones that cannot be honoured are refused by
name (`unsupported`). None means not given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

MAX_TOP_LOGPROBS = 20

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=128)]
_Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
_Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
_TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
_Temperature: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Penalty: TypeAlias = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Priority: TypeAlias = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
_TopLogprobs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)]
_Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class StreamOptions(msgspec.Struct, frozen=True):
    """How an answer is streamed.

    Attributes:
        include_usage: a last chunk without choices tells the usage.
        continuous_usage_stats: every chunk tells the usage so far.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JSONSchemaFormat(msgspec.Struct, frozen=True):
    """A JSON schema under a name."""

    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's way to say what the answer must be; one of these."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints share.

    Attributes:
        top_k: -1 and 0 keep all. seed: any 64 bits.
        priority: requests with a smaller one go first.
        cache_salt: only requests with the same salt share cached prompts.
        request_id: part of the answer's id, as the header X-Request-Id.
        truncate_prompt_tokens: the prompt's last tokens that are looked at; -1: as many as leave room for the answer.
        use_beam_search: the likeliest answers instead of sampled ones; `n` or `best_of` is the number of beams.
        length_penalty, early_stopping: of beam search; see `BeamSearchParams`.
        prompt_logprobs: tell the log-probability of each of the prompt's tokens, with this many likeliest ones.
    """

    model: str | None = None
    n: _Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: _Temperature | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 31) - 1)] | None = None
    min_p: _Share | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: float | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    max_tokens: _Positive | None = None
    min_tokens: _Natural | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[_TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[_TokenId] | None = None
    bad_words: list[str] | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: _Priority | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 31) - 1)] | None = None
    skip_special_tokens: bool | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    prompt_logprobs: _TopLogprobs | None = None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`.

    Attributes:
        prompt: a text, several texts, token ids, or several lists of token ids.
        echo: the answer begins with the prompt. logprobs: of each token, with this many likeliest ones.
        best_of: this many answers are made, of which the likeliest `n` are given.
    """

    prompt: str | list[str | _TokenId | list[_TokenId]]
    echo: bool | None = None
    logprobs: _TopLogprobs | None = None
    best_of: _Count | None = None
    add_special_tokens: bool | None = None
    suffix: str | None = None
    prompt_embeds: Any = None


class FunctionCall(msgspec.Struct, frozen=True):
    """A call in an earlier message; `arguments` is JSON text."""

    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call in an earlier message."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message. Only `text` and `refusal` can be read; nothing is ever fetched."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: _Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class NamedFunction(msgspec.Struct, frozen=True):
    """The name of a function."""

    name: str


class NamedToolChoice(msgspec.Struct, frozen=True):
    """The tool that the model must call."""

    function: NamedFunction
    type: Literal["function"] = "function"


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`.

    Attributes:
        max_completion_tokens: takes the place of `max_tokens`. None of both: until the context is full.
        logprobs: tell those of each token, with the `top_logprobs` likeliest ones.
        tool_choice: "auto", "none", "required" or a tool.
        chat_template_kwargs: variables for the model's template, such as `enable_thinking`.
        continue_final_message: the answer continues the last message.
        documents: what templates for retrieval read, each with a title and a text or so.
    """

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Positive | None = None
    logprobs: bool | None = None
    top_logprobs: _TopLogprobs | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    echo: bool | None = None
    chat_template: str | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, str]] | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /tokenize`: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /detokenize`."""

    tokens: list[_TokenId]
    model: str | None = None


# Fields that ask for what this server does not do, unless their value is among these.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "suffix": (None, ""),
    "prompt_embeds": (None,),
    "chat_template": (None,),
}


def unsupported(request: GenerationRequest) -> str | None:
    """Return the name of a field that asks for what this server does not do, or None."""
    for name, neutral in _UNSUPPORTED.items():
        if getattr(request, name, None) not in neutral:
            return name
    return None
