"""Tool calls in the formats of the models, found whatever pieces the text comes in."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.runtime.server.tool_calls import (
    BareParser,
    CallArguments,
    CallStart,
    Content,
    NamedCallParser,
    ToolFormat,
    ToolParser,
    detect_format,
    new_parser,
)

TOOLS = ["weather", "add"]
FORMATS: tuple[ToolFormat, ...] = ("hermes", "mistral", "llama3")


def read(parser: ToolParser, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The content and the calls (name, arguments as text), checked to be a valid order of events."""
    content, calls = "", []
    for event in [*(event for piece in pieces for event in parser.push(piece)), *parser.finish()]:
        match event:
            case Content(text):
                content += text
            case CallStart(index, identity, name):
                assert index == len(calls)
                assert identity.startswith("call_")
                calls.append((name, ""))
            case CallArguments(index, text):
                assert index == len(calls) - 1
                assert text
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return content, calls


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
calls_strategy = st.lists(
    st.tuples(st.sampled_from(TOOLS), st.dictionaries(st.text(max_size=5), json_values, max_size=3)),
    min_size=1,
    max_size=3,
)


def written(tool_format: str, calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, indent: int | None) -> str:
    def dumps(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    if tool_format == "hermes":
        objects = [dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)
    if tool_format == "mistral":
        return "[TOOL_CALLS]" + dumps([{"name": name, "arguments": arguments} for name, arguments in calls])
    if tool_format == "mistral-names":
        return "".join(f"[TOOL_CALLS]{name}{dumps(arguments)}" for name, arguments in calls)
    if tool_format == "mistral-ids":
        return "".join(f"[TOOL_CALLS]{name}[CALL_ID]a1B2c3D4e[ARGS]{dumps(arguments)}" for name, arguments in calls)
    return "; ".join(dumps({"name": name, "parameters": arguments}) for name, arguments in calls)


@given(
    st.sampled_from(["hermes", "mistral", "mistral-names", "mistral-ids", "llama3"]),
    calls_strategy, st.booleans(), st.sampled_from([None, 2]), st.lists(st.integers(0, 500), max_size=6),
)  # fmt: skip
def test_calls_come_back_as_written_in_any_pieces(
    tool_format: str, calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, indent: int | None, places: list[int]
) -> None:
    text = written(tool_format, calls, ascii_only, indent)
    family = next(name for name in FORMATS if tool_format.startswith(name))
    content, found = read(new_parser(family, TOOLS), cut(text, places))
    assert content.strip() == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@given(st.sampled_from(FORMATS), st.text(max_size=30), st.lists(st.integers(0, 500), max_size=4))
def test_an_answer_without_calls_is_content(tool_format: ToolFormat, text: str, places: list[int]) -> None:
    assert read(new_parser(tool_format, TOOLS), cut(text, places)) == (text, [])


@pytest.mark.parametrize(
    "text", ['{"answer": 1}', '{"name": "unknown", "parameters": {}}', "<|python", '{"name": "add']
)
def test_json_that_is_no_call_is_content(text: str) -> None:
    assert read(new_parser("llama3", TOOLS), [text]) == (text, [])


def test_content_before_a_call_is_kept_and_arguments_are_streamed() -> None:
    parser = new_parser("hermes", TOOLS)
    assert parser.push("Let me look. <tool") == [Content("Let me look. ")]
    assert parser.push('_call>{"name": "wea') == []
    start, *_ = parser.push('ther", "arguments": ')
    assert isinstance(start, CallStart)
    assert start.name == "weather"
    assert parser.push('{"city": "Pa') == [CallArguments(0, '{"city": "Pa')]
    assert parser.push('ris"}}\n</tool_call>') == [CallArguments(0, 'ris"}')]
    assert parser.push("Done.") == [Content("Done.")]


@pytest.mark.parametrize(
    "text", ["<tool_call>", '<tool_call>{"foo": 1}</tool_call>', '<tool_call>{"nam', "a <b> <tool"]
)
def test_broken_calls_are_content(text: str) -> None:
    assert read(new_parser("hermes", TOOLS), list(text))[1] == []
    if text != "<tool_call>":
        assert read(new_parser("hermes", TOOLS), list(text))[0] == text


def test_arguments_may_stand_first_or_be_json_in_a_string() -> None:
    first = '<tool_call>{"arguments": {"a": [1, 2]}, "name": "add"}</tool_call>'
    assert read(new_parser("hermes", TOOLS), list(first)) == ("", [("add", '{"a": [1, 2]}')])
    string = '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}", "id": "x"}</tool_call>'
    assert read(new_parser("hermes", TOOLS), list(string)) == ("", [("add", '{"a": 1}')])


def test_forced_answers() -> None:
    array = '[{"name": "add", "parameters": {"a": 1}}, {"name": "add", "parameters": {}}]'
    assert read(BareParser(None, ("[",)), list(array)) == ("", [("add", '{"a": 1}'), ("add", "{}")])
    assert read(NamedCallParser("add"), ['{"a"', ": 1}"]) == ("", [("add", '{"a": 1}')])


def test_the_format_is_that_of_the_models_template() -> None:
    assert detect_format("{% if tools %}<tool_call>{{ tools }}") == "hermes"
    assert detect_format("{% if tools %}[AVAILABLE_TOOLS][TOOL_CALLS]") == "mistral"
    assert detect_format('{% if tools %}{"name": x, "parameters": y}') == "llama3"
    assert detect_format("{% for message in messages %}") is None
