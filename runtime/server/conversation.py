"""From the messages and tools of a chat request to what a chat template reads.

Their text is data to the template, never a template itself; a template is never taken from a request
(CVE-2025-61620). Nothing is fetched: parts that name an image, a sound or a file are refused (CVE-2026-24779).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from warploom.runtime.server.limits import Limits, RequestError
from warploom.runtime.server.requests import ChatMessage, ContentPart, Tool, ToolCall

# What the server itself gives to the template.
_RESERVED = {
    "messages", "tools", "documents", "add_generation_prompt", "chat_template", "tokenize", "bos_token", "eos_token",
    "continue_final_message",
}  # fmt: skip


def template_messages(messages: Sequence[ChatMessage], limits: Limits) -> list[dict[str, Any]]:
    """Return the messages as templates expect them.

    Raises:
        RequestError: there are too many, or one has a part that is not text.
    """
    limits.check("messages", len(messages), "messages")
    return [_message(message, limits) for message in messages]


def template_tools(tools: Sequence[Tool], limits: Limits) -> list[dict[str, Any]]:
    """Return the tools as templates expect them, members that were not given left out."""
    limits.check("tools", len(tools), "tools")
    for tool in tools:
        limits.check("tools", len(tool.function.name), "name_chars")
        limits.check_depth("tools", tool.function.parameters or {})
    listed = [
        {
            "type": "function",
            "function": {
                name: value
                for name, value in msgspec.to_builtins(tool.function).items()
                if value is not None and name != "strict"
            },
        }
        for tool in tools
    ]
    limits.check("tools", len(msgspec.json.encode(listed)), "tools_bytes")
    return listed


def template_variables(variables: dict[str, Any] | None, limits: Limits) -> dict[str, Any]:
    """Return the further variables of a template: plain values under names that nothing else has."""
    variables = variables or {}
    limits.check("chat_template_kwargs", len(variables), "template_variables")
    for name, value in variables.items():
        limits.check("chat_template_kwargs", len(name), "name_chars")
        if name in _RESERVED or not name.isidentifier() or name.startswith("_"):
            raise RequestError("chat_template_kwargs", "names of the template's own variables", name)
        if not isinstance(value, bool | int | float | str):
            raise RequestError("chat_template_kwargs", "numbers, texts, true or false", type(value).__name__)
    return variables


def _message(message: ChatMessage, limits: Limits) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    given = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
        "tool_calls": [_call(call, limits) for call in message.tool_calls] if message.tool_calls else None,
    }
    return {
        "role": role,
        "content": _text(message.content, limits),
        **{name: value for name, value in given.items() if value is not None},
    }


def _text(content: str | list[ContentPart] | None, limits: Limits) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    limits.check("messages", len(content), "content_parts")
    return "\n".join(map(_part_text, content))


def _part_text(part: ContentPart) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if text is None:
        what = "The messages hold what this server cannot read: the model takes text, and nothing is fetched"
        raise RequestError("messages", 'parts of type "text", with text', part.type[:100], what=what)
    return text


def _call(call: ToolCall, limits: Limits) -> dict[str, Any]:
    """An earlier call; its arguments are given to the template as a dict, as all templates but a few want them."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError("messages", "arguments of tool calls to be JSON") from error
    limits.check_depth("messages", arguments)
    identity = {} if call.id is None else {"id": call.id}
    return {**identity, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
