"""`/v1/completions` over a fake device: forms of prompts, streams, echo, logprobs, limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.conftest import Running, StartServer
from warploom.runtime.artifact import Artifact
from warploom.runtime.server.limits import Limits

pytestmark = pytest.mark.usefixtures("quiet")


def error_of(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status == status, reply.body
    error: dict[str, Any] = reply.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == status
    return error


def test_a_completion_has_openais_shape(running: Running) -> None:
    reply = running.complete(seed=1, ignore_eos=True)
    assert reply.status == 200
    body = reply.json
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == "fake"
    [choice] = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    prompt_tokens = len(running.service.llm.tokenizer.encode("Once upon"))
    assert body["usage"]["prompt_tokens"] == prompt_tokens
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == prompt_tokens + 5


def test_the_default_length_is_openais(running: Running) -> None:
    reply = running.post("/v1/completions", {"prompt": "Once upon", "ignore_eos": True})
    assert reply.json["usage"]["completion_tokens"] == 16


def test_a_stream_gives_the_same_text_and_ends_with_done(running: Running) -> None:
    whole = running.complete(seed=7, ignore_eos=True, max_tokens=20).json["choices"][0]["text"]
    events = running.complete(seed=7, ignore_eos=True, max_tokens=20, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert all(event["choices"] and "usage" not in event for event in events)
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "length"
    assert len({event["id"] for event in events}) == 1


def test_usage_is_streamed_when_asked_for(running: Running) -> None:
    options = {"include_usage": True}
    *events, last = running.complete(ignore_eos=True, stream=True, stream_options=options).events
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert all("usage" not in event for event in events)
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = running.complete(ignore_eos=True, stream=True, stream_options=options).events
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 5


@pytest.mark.parametrize("stream", [False, True])
def test_batches_and_n_are_numbered_prompts_first(running: Running, stream: bool) -> None:
    tokens = running.service.llm.tokenizer.encode("cloth")
    request = {"n": 2, "seed": 3, "max_tokens": 4, "ignore_eos": True, "stream": stream}
    reply = running.complete(prompt=["Once upon", "a time"], **request)
    texts = [""] * 4
    for event in reply.events if stream else [reply.json]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    for place, prompt in enumerate(["Once upon", "a time"]):
        for index in range(2):
            alone = running.complete(prompt=prompt, **{**request, "n": 1, "seed": 3 + index, "stream": False}).json
            assert texts[2 * place + index] == alone["choices"][0]["text"]
    as_ids = running.complete(prompt=tokens, seed=5).json["choices"]
    assert as_ids == running.complete(prompt=[tokens], seed=5).json["choices"]
    assert as_ids == running.complete(prompt="cloth", seed=5).json["choices"]


def test_echo_puts_the_prompt_in_front(running: Running) -> None:
    alone = running.complete(seed=2, ignore_eos=True).json["choices"][0]["text"]
    assert running.complete(seed=2, ignore_eos=True, echo=True).json["choices"][0]["text"] == "Once upon" + alone
    events = running.complete(seed=2, ignore_eos=True, echo=True, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events) == "Once upon" + alone
    tokens = running.service.llm.tokenizer.encode("Once upon")
    assert running.complete(prompt=tokens, seed=2, ignore_eos=True, echo=True).json["choices"][0]["text"] == (
        "Once upon" + alone
    )


def test_logprobs_are_parallel_lists(running: Running) -> None:
    for stream in (False, True):
        reply = running.complete(seed=4, ignore_eos=True, logprobs=2, stream=stream)
        events = reply.events if stream else [reply.json]
        parts = [event["choices"][0]["logprobs"] for event in events]
        names = ("tokens", "token_logprobs", "text_offset", "top_logprobs")
        lists = {name: [one for part in parts for one in part[name]] for name in names}
        assert {len(one) for one in lists.values()} == {5}
        for token, value, top in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True):
            assert top[token] == value
            assert 2 <= len(top) <= 3
        lengths = [len(token) for token in lists["tokens"]]
        assert lists["text_offset"] == [sum(lengths[:place]) for place in range(5)]


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"n": 2}, {"prompt": ["Once upon", "a time", "b"], "n": 2}])
def test_echoed_prompts_have_logprobs_but_for_their_first_token(running: Running, more: dict[str, Any]) -> None:
    reply = running.complete(**{"seed": 4, "ignore_eos": True, "logprobs": 1, "echo": True, **more})
    events = reply.events if more.get("stream") else [reply.json]
    prompts = more.get("prompt", ["Once upon"])
    for number in {choice["index"] for event in events for choice in event["choices"]}:
        choices = [choice for event in events for choice in event["choices"] if choice["index"] == number]
        parts = [choice["logprobs"] for choice in choices]
        tokens = [token for part in parts for token in part["tokens"]]
        values = [value for part in parts for value in part["token_logprobs"]]
        tops = [top for part in parts for top in part["top_logprobs"]]
        assert values[0] is None
        assert tops[0] is None
        assert None not in values[1:]
        assert all(top[token] == value for top, token, value in zip(tops[1:], tokens[1:], values[1:], strict=True))
        prompt = prompts[number // more.get("n", 1)]
        length = len(running.service.llm.tokenizer.encode(prompt))
        assert len(tokens) == length + 5
        assert "".join(tokens[:length]) == prompt


def test_the_best_of_several_answers_are_given(running: Running) -> None:
    request = {"prompt": ["Once upon", "a time"], "seed": 3, "max_tokens": 6}
    every = running.complete(**request, n=4, logprobs=0).json["choices"]
    means = [sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["tokens"]) for choice in every]
    reply = running.complete(**request, n=2, best_of=4).json
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in reply["choices"])
    for prompt in range(2):
        ranked = sorted(range(4 * prompt, 4 * prompt + 4), key=lambda number: -means[number])
        texts = [choice["text"] for choice in reply["choices"][2 * prompt : 2 * prompt + 2]]
        assert texts == [every[number]["text"] for number in ranked[:2]]
    error_of(running.complete(n=3, best_of=2), 400)
    [event] = running.complete(**request, best_of=2, stream=True).events[-1:]
    assert event["choices"][0]["finish_reason"] == "length"


def test_what_only_a_whole_answer_can_hold_is_refused_in_streams(running: Running) -> None:
    error_of(running.complete(echo=True, logprobs=1, n=2, stream=True), 400)


def test_tokens_can_be_shown_as_ids(running: Running) -> None:
    logprobs = running.complete(logprobs=1, return_tokens_as_token_ids=True).json["choices"][0]["logprobs"]
    assert all(token.startswith("token_id:") for token in logprobs["tokens"])


def test_a_stop_string_ends_the_text_and_may_be_shown(running: Running) -> None:
    text = running.complete(seed=11, ignore_eos=True, max_tokens=30).json["choices"][0]["text"]
    stop = text[3:5]
    expected = text[: text.index(stop)]
    [choice] = running.complete(seed=11, ignore_eos=True, max_tokens=30, stop=stop).json["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (expected, "stop", stop)
    shown = running.complete(
        seed=11, ignore_eos=True, max_tokens=30, stop=[stop], include_stop_str_in_output=True, stream=True
    ).events
    assert "".join(event["choices"][0]["text"] for event in shown) == expected + stop


def test_fields_that_clients_send_as_null_and_unknown_ones_are_accepted(running: Running) -> None:
    reply = running.complete(
        logprobs=None, stop=None, best_of=1, repetition_penalty=1.0, top_k=-1, seed=-5, user="me", frob={"a": [1]},
        logit_bias={"5": -100}, stream_options=None, priority=3, cache_salt="s", top_p=0, min_p=0.0,
    )  # fmt: skip
    assert reply.status == 200, reply.body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 129), ("n", 10**30), ("best_of", 500), ("logprobs", 21), ("logprobs", -1), ("max_tokens", 0),
        ("max_tokens", -1), ("max_tokens", 2**31), ("min_tokens", 6), ("temperature", -1), ("temperature", 3),
        ("temperature", "hot"), ("top_p", 1.5), ("top_k", -2), ("min_p", 2), ("frequency_penalty", 3),
        ("presence_penalty", -3), ("repetition_penalty", 0), ("seed", 2**70), ("stop", ""), ("stop", ["a"] * 17),
        ("stop", "a" * 300), ("stop_token_ids", [-1]), ("stop_token_ids", [10**6]), ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 1000}), ("logit_bias", {"999999": 1}), ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("stream_options", {}), ("priority", 10**6), ("cache_salt", "x" * 1000), ("suffix", "x"),
        ("prompt_embeds", "AAAA"), ("bad_words", [""]), ("allowed_token_ids", []), ("allowed_token_ids", [10**6]),
        ("bad_words", ["a"] * 200), ("use_beam_search", "wide"), ("prompt_logprobs", 21), ("prompt", ""),
        ("prompt", []), ("prompt", [[]]), ("prompt", [""]), ("prompt", [1, "a"]), ("prompt", [[1, "a"]]),
        ("prompt", [-1]),
        ("prompt", [10**6]), ("prompt", {"a": 1}), ("prompt", None), ("prompt", ["a"] * 1025),
        ("request_id", "x" * 999),
        ("response_format", {"type": "xml"}), ("truncate_prompt_tokens", -2), ("skip_special_tokens", "some"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_name(running: Running, field: str, value: Any) -> None:
    error = error_of(running.complete(**{field: value}), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == field


def test_more_answers_than_the_server_takes_are_refused_not_queued_forever(running: Running) -> None:
    error_of(running.complete(prompt=["a"] * 100, n=20), 400)
    error_of(running.complete(prompt=["a"] * 100), 400)


def test_a_prompt_beyond_the_context_is_refused_before_it_is_encoded(running: Running) -> None:
    assert "256" in error_of(running.complete(prompt=[5] * 256), 400)["message"]
    encode, called = running.service.llm.tokenizer.encode, []
    running.service.llm.tokenizer.encode = lambda text: called.append(text) or encode(text)  # type: ignore[method-assign]
    try:
        error_of(running.complete(prompt="x" * 100_000), 400)
    finally:
        running.service.llm.tokenizer.encode = encode  # type: ignore[method-assign]
    assert not any(called)


def test_another_model_is_not_found(running: Running) -> None:
    assert error_of(running.complete(model="gpt-4"), 404)["param"] == "model"
    assert running.complete(model="fake").status == 200
    assert running.ask("GET", "/v1/models/fake").json["id"] == "fake"
    error_of(running.ask("GET", "/v1/models/other"), 404)


def test_the_callers_request_id_comes_back(running: Running) -> None:
    reply = running.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers={"X-Request-Id": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert reply.json["id"] == "cmpl-abc-1"


def test_limits_can_be_changed(start_server: StartServer, artifact: Artifact) -> None:
    strict = start_server(limits=Limits(prompts=2, body_bytes=200))
    error_of(strict.complete(prompt=["a", "b", "c"]), 400)
    error_of(strict.complete(prompt="a" * 300), 413)
