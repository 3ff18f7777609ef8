"""What the form of an answer must be, gathered from the many fields in which clients say so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from warploom.runtime.guide import Guide, GuideKind
from warploom.runtime.server.limits import Limits, RequestError
from warploom.runtime.server.requests import (
    ChatRequest,
    GenerationRequest,
    NamedToolChoice,
    ResponseFormat,
    StructuredOutputs,
    Tool,
)


class _Form(NamedTuple):
    """A form of `Guide`'s `kind`; several texts are choices. `param` is the field that asked for it."""

    kind: GuideKind
    texts: list[str]
    param: str


def requested_guide(request: GenerationRequest, limits: Limits) -> Guide | None:
    """Return the form that a request asks for, or None.

    Raises:
        RequestError: it asks for several, or for one that is empty or larger than the limits allow.
    """
    asked = _asked(request, limits)
    if len(asked) > 1:
        raise RequestError(asked[1].param, f"only one form of the answer; {asked[0].param} asks for one already")
    if not asked:
        return None
    kind, texts, param = asked[0]
    limits.check(param, sum(len(text.encode(errors="replace")) for text in texts), "guide_bytes")
    if kind == "json_object":
        return Guide(kind)
    if not texts or not all(texts):
        raise RequestError(param, "a form that is not empty")
    return Guide(kind, choices=tuple(texts)) if kind == "choice" else Guide(kind, texts[0])


def guiding_field(request: GenerationRequest, limits: Limits) -> str:
    """Return the name of the field that asks for a form; one does."""
    return _asked(request, limits)[0].param


def _asked(request: GenerationRequest, limits: Limits) -> list[_Form]:
    asked = [*_response_format(request.response_format), *_structured(request.structured_outputs, limits)]
    asked += _guided(request, limits)
    if isinstance(request, ChatRequest):
        asked += _tool_choice(request)
    return asked


def _response_format(wanted: ResponseFormat | None) -> list[_Form]:
    if wanted is None or wanted.type == "text":
        return []
    if wanted.type == "json_object":
        return [_Form("json_object", [], "response_format")]
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise RequestError("response_format", "json_schema.schema, a JSON schema")
    return [_schema(wanted.json_schema.schema, "response_format")]


def _structured(wanted: StructuredOutputs | None, limits: Limits) -> list[_Form]:
    if wanted is None:
        return []
    param = "structured_outputs"
    json_object = [_Form("json_object", [], param)] if wanted.json_object else []
    return json_object + _each(param, wanted.json, wanted.regex, wanted.choice, wanted.grammar, limits)


def _guided(request: GenerationRequest, limits: Limits) -> list[_Form]:
    return [
        *_each("guided_json", request.guided_json, None, None, None, limits),
        *_each("guided_regex", None, request.guided_regex, None, None, limits),
        *_each("guided_choice", None, None, request.guided_choice, None, limits),
        *_each("guided_grammar", None, None, None, request.guided_grammar, limits),
    ]


def _each(
    param: str, schema: dict[str, Any] | str | None, regex: str | None, choice: list[str] | None,
    grammar: str | None, limits: Limits,
) -> list[_Form]:  # fmt: skip
    asked: list[_Form] = []
    if schema is not None:
        asked.append(_Form("json_schema", [schema], param) if isinstance(schema, str) else _schema(schema, param))
    if regex is not None:
        asked.append(_Form("regex", [regex], param))
    if choice is not None:
        limits.check(param, len(choice), "guide_choices")
        asked.append(_Form("choice", choice, param))
    if grammar is not None:
        asked.append(_Form("grammar", [grammar], param))
    return asked


def _tool_choice(request: ChatRequest) -> list[_Form]:
    """A forced tool call is an answer of a given form."""
    tools = request.tools or []
    match request.tool_choice:
        case "required":
            return [_schema(_calls_schema(tools, request.parallel_tool_calls is not False), "tool_choice")]
        case NamedToolChoice(function):
            spec = next((tool.function for tool in tools if tool.function.name == function.name), None)
            if spec is None:
                raise RequestError("tool_choice", "the name of one of the tools", function.name[:100])
            return [_schema(spec.parameters or {"type": "object"}, "tool_choice")]
    return []


def _calls_schema(tools: Sequence[Tool], parallel: bool) -> dict[str, Any]:
    """A list of at least one call, as vLLM forces it."""
    if not tools:
        raise RequestError("tool_choice", "tools to choose from")
    one = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "parameters": tool.function.parameters or {"type": "object"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return {"type": "array", "minItems": 1, **({} if parallel else {"maxItems": 1}), "items": {"anyOf": one}}


def _schema(schema: dict[str, Any], param: str) -> _Form:
    return _Form("json_schema", [json.dumps(schema)], param)
