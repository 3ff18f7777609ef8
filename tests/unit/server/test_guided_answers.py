"""Every field in which clients ask for a form, through HTTP; the device says noise where it may."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.unit.server.conftest import Running
from tests.unit.server.test_chat_api import TOOLS

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 10, "maximum": 99}, "kind": {"enum": ["a", "b"]}},
    "required": ["size", "kind"],
    "additionalProperties": False,
}


def is_valid(text: str) -> bool:
    answer = json.loads(text)
    return 10 <= answer["size"] <= 99 and answer["kind"] in ("a", "b") and len(answer) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"guided_json": SCHEMA}, {"guided_json": json.dumps(SCHEMA)}, {"structured_outputs": {"json": SCHEMA}},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("quiet")
def test_schemas(running: Running, fields: dict[str, Any]) -> None:
    for number, choice in enumerate(running.chat(max_tokens=150, n=3, seed=2, **fields).json["choices"]):
        assert choice["finish_reason"] == "stop", number
        assert is_valid(choice["message"]["content"])
    events = running.chat(max_tokens=150, seed=2, stream=True, **fields).events
    assert is_valid("".join(event["choices"][0]["delta"].get("content") or "" for event in events))


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"guided_regex": "[xy]{3}"}, "[xy]{3}"), ({"guided_choice": ["red", "a.b"]}, r"red|a\.b"),
        ({"guided_grammar": 'start: "(" /[0-9]{2}/ ")"'}, r"\([0-9]{2}\)"),
        ({"structured_outputs": {"regex": "[xy]{3}"}}, "[xy]{3}"),
        ({"structured_outputs": {"choice": ["red", "a.b"]}}, r"red|a\.b"),
        ({"response_format": {"type": "json_object"}, "bad_words": ['"']}, r"\{\s*\}"),
        ({"structured_outputs": {"json_object": True}, "bad_words": ['"']}, r"\{\s*\}"),
    ],
)  # fmt: skip
def test_other_forms(running: Running, fields: dict[str, Any], form: str) -> None:
    choice = running.complete(max_tokens=60, seed=1, **fields).json["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert re.fullmatch(form, choice["text"])


@pytest.mark.parametrize("stream", [False, True])
def test_forced_tools(running: Running, stream: bool) -> None:
    parameters = {**SCHEMA}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        reply = running.chat(
            tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=150, seed=1, stream=stream
        )
        if stream:
            deltas = [event["choices"][0] for event in reply.events]
            pieces = [piece["function"] for one in deltas for piece in one["delta"].get("tool_calls") or ()]
            names, arguments = (
                [one["name"] for one in pieces if one.get("name")],
                [one.get("arguments") or "" for one in pieces],
            )
            finish = deltas[-1]["finish_reason"]
        else:
            answer = reply.json["choices"][0]
            calls = [call["function"] for call in answer["message"]["tool_calls"]]
            names, arguments = [one["name"] for one in calls], [one["arguments"] for one in calls]
            finish = answer["finish_reason"]
        assert names == ["f"]
        assert is_valid("".join(arguments))
        assert finish == "tool_calls"


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": {"type": "nonsense"}}, {"guided_json": "{"}, {"guided_regex": "(?=a)"}, {"guided_choice": []},
        {"guided_choice": [""]}, {"guided_grammar": "no grammar"}, {"guided_regex": "a", "min_tokens": 2},
        {"guided_regex": "a", "guided_json": {}}, {"response_format": {"type": "json_schema"}},
        {"guided_json": {"type": "array", "uniqueItems": True}},
    ],
)  # fmt: skip
def test_forms_that_cannot_be_are_refused(running: Running, fields: dict[str, Any]) -> None:
    reply = running.complete(**fields)
    assert reply.status == 400, reply.body
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert reply.json["error"]["param"] in (*fields, "min_tokens")


def test_forms_that_other_parameters_forbid_end(running: Running) -> None:
    reply = running.complete(guided_regex="a{4}", bad_words=["a"], seed=1)  # with another, the fake may choose an end
    assert reply.status == 400
    assert "form" in reply.json["error"]["message"]
    assert running.chat(tools=TOOLS, tool_choice="none").status == 200
