"""`/v1/chat/completions` over a fake device: messages, streams, tool calls, logprobs, refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.runtime_fakes import EOS, fake_artifact
from tests.unit.server.conftest import Running, StartServer
from warploom.runtime.artifact import Artifact, load

pytestmark = pytest.mark.usefixtures("quiet")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": PARAMETERS}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris, é"}}\n</tool_call>'


@pytest.fixture
def say(running: Running) -> Iterator[Any]:
    """Makes the next answer a given text."""
    yield lambda text: running.device.say([*running.service.llm.tokenizer.encode(text), EOS])
    running.device.say([])


def prompt_of(running: Running, **body: Any) -> str:
    """The text that the model is given, through /tokenize, which shares the way."""
    tokens = running.post("/tokenize", body).json["tokens"]
    return str(running.post("/detokenize", {"tokens": tokens}).json["prompt"])


def test_a_chat_has_openais_shape(running: Running) -> None:
    body = running.chat(seed=1, ignore_eos=True).json
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    [choice] = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5


def test_a_streamed_chat_begins_with_the_role(running: Running) -> None:
    whole = running.chat(seed=1, ignore_eos=True, n=2).json["choices"]
    options = {"include_usage": True}
    *events, last = running.chat(seed=1, ignore_eos=True, n=2, stream=True, stream_options=options).events
    assert [event["choices"][0]["delta"]["role"] for event in events[:2]] == ["assistant"] * 2
    for number in range(2):
        pieces = [event["choices"][0] for event in events if event["choices"][0]["index"] == number]
        assert "".join(piece["delta"].get("content", "") for piece in pieces) == whole[number]["message"]["content"]
        assert pieces[-1]["finish_reason"] == "length"
        assert all(piece["finish_reason"] is None for piece in pieces[:-1])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 10


def test_the_answer_is_as_long_as_the_context_allows_by_default(running: Running) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True}
    usage = running.post("/v1/chat/completions", body).json["usage"]
    assert usage["total_tokens"] == 256
    short = running.post("/v1/chat/completions", {**body, "max_tokens": 9, "max_completion_tokens": 3})
    assert short.json["usage"]["completion_tokens"] == 3


def test_content_may_come_in_parts_and_roles_are_those_of_templates(running: Running) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    expected = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n"
    assert prompt_of(running, messages=messages, add_generation_prompt=False) == expected
    assert prompt_of(running, messages=messages) == expected + "<|im_start|>assistant\n"


def test_chat_logprobs(running: Running) -> None:
    content = running.chat(logprobs=True, top_logprobs=2, ignore_eos=True).json["choices"][0]["logprobs"]["content"]
    assert len(content) == 5
    for entry in content:
        assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(entry["top_logprobs"]) == 2
    plain = running.chat(logprobs=True, ignore_eos=True).json["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in plain)
    events = running.chat(logprobs=True, ignore_eos=True, stream=True).events
    streamed = [one for event in events for one in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert len(streamed) == 5


def test_a_tool_call_is_read_from_the_text(running: Running, say: Any) -> None:
    say("I look. " + CALL)
    choice = running.chat(tools=TOOLS, max_tokens=200).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look. "
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert "index" not in call
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris, é"}


def test_a_streamed_tool_call_comes_in_pieces(running: Running, say: Any) -> None:
    running.device.seconds = 0.005  # so that the pieces are several
    say(CALL + "\n" + CALL)
    events = running.chat(tools=TOOLS, max_tokens=250, stream=True).events
    running.device.seconds = 0
    deltas = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert {call["index"] for call in deltas} == {0, 1}
    for index in range(2):
        first, *rest = [call for call in deltas if call["index"] == index]
        assert (first["type"], first["function"]["name"]) == ("function", "weather")
        assert len(rest) > 1
        assert all("id" not in call for call in rest)
        arguments = first["function"]["arguments"] + "".join(call["function"]["arguments"] for call in rest)
        assert json.loads(arguments) == {"city": "Paris, é"}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_one_call_is_enough_if_the_client_says_so(running: Running, say: Any) -> None:
    say(CALL + CALL)
    message = running.chat(tools=TOOLS, max_tokens=250, parallel_tool_calls=False).json["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_calls_are_text(running: Running, say: Any, more: dict[str, Any]) -> None:
    say(CALL)
    choice = running.chat(max_tokens=200, **more).json["choices"][0]
    assert choice["message"]["content"] == CALL
    assert choice["finish_reason"] == "stop"


def test_arguments_that_are_no_json_leave_the_text_as_it_was(running: Running, say: Any) -> None:
    broken = '<tool_call>{"name": "weather", "arguments": {"city": Paris}}</tool_call>'
    say(broken)
    choice = running.chat(tools=TOOLS, max_tokens=200).json["choices"][0]
    assert choice["message"]["content"] == broken
    assert choice["finish_reason"] == "stop"


def test_earlier_calls_reach_the_template_as_values(start_server: StartServer, tmp_path_factory: Any) -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}"
    )
    server = start_server(served=with_template(tmp_path_factory, template + "{{ tools | length }}{{ mood }}"))
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert prompt_of(server, messages=messages, tools=TOOLS, chat_template_kwargs={"mood": "ok"}) == "Oslo1ok"
    call["function"]["arguments"] = "{"  # type: ignore[index]
    assert server.post("/tokenize", {"messages": messages}).status == 400


def with_template(factory: Any, template: str) -> Artifact:
    """A fake artifact whose chat template is another one."""
    path = fake_artifact(factory.mktemp("template") / "artifact", max_context=256).path
    (path / "chat_template.jinja").write_text(template)
    manifest = json.loads((path / "manifest.json").read_text())
    data = template.encode()
    manifest["files"]["chat_template.jinja"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []), ("messages", None), ("messages", [{"role": "wizard", "content": "a"}]),
        ("messages", [{"role": "user", "content": 5}]), ("messages", [{"content": "a"}]),
        ("messages", [{"role": "user", "content": "a"}] * 5000),
        ("messages", [{"role": "user", "content": "a b " * 200}]), ("top_logprobs", 3), ("echo", True),
        ("tools", [{"type": "function"}]), ("tools", [{"type": "web_search"}]), ("tools", TOOLS * 200),
        ("tool_choice", "auto"), ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("chat_template", "{{ 7 * 7 }}"), ("chat_template_kwargs", {"tools": 1}), ("chat_template_kwargs", {"a": [1]}),
        ("chat_template_kwargs", {"a b": 1}), ("chat_template_kwargs", {f"a{i}": 1 for i in range(20)}),
        ("continue_final_message", "on"), ("documents", [{"text": 1}]), ("documents", [{}] * 1025),
        ("max_completion_tokens", 0), ("n", 500),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_name(running: Running, field: str, value: Any) -> None:
    reply = running.chat(**{field: value})
    assert reply.status == 400, reply.body
    assert reply.json["error"]["param"] == field


def test_a_model_without_a_template_cannot_chat(start_server: StartServer, no_chat_artifact: Artifact) -> None:
    plain = start_server(served=no_chat_artifact, tool_format=None)
    assert "chat template" in plain.chat().json["error"]["message"]
    assert plain.complete().status == 200
    assert plain.chat(tools=TOOLS).status == 400


def test_tokenize_and_detokenize_are_inverse(running: Running) -> None:
    text = "Once upon a time <|im_end|> naïve 🚀"
    reply = running.post("/tokenize", {"prompt": text, "return_token_strs": True}).json
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == 256
    assert running.post("/detokenize", {"tokens": reply["tokens"]}).json == {"prompt": text}
    assert running.post("/tokenize", {}).status == 400
    assert running.post("/detokenize", {"tokens": [10**6]}).status == 400
