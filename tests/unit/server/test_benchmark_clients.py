"""The requests of the usual load generators, written as they write them, and what they need back.

vLLM: vllm/benchmarks/lib/endpoint_request_func.py; SGLang: sglang/benchmark/serving.py; guidellm:
guidellm/backends/openai; aiperf: aiperf/clients/openai. The packages themselves are too heavy for CI.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.server.conftest import MODEL, Running

pytestmark = pytest.mark.usefixtures("quiet")
HEADERS = {"Authorization": "Bearer none", "x-request-id": "benchmark-7"}


def vllm_messages(body: bytes) -> list[str]:
    """vLLM's StreamedResponseHandler: messages end with an empty line; comments begin with a colon."""
    messages = [part.strip() for part in body.decode().split("\n\n")]
    return [part.removeprefix("data: ") for part in messages if part and not part.startswith(":")]


@pytest.mark.parametrize("prompt", ["Once upon a time", [20, 21, 22]])
def test_vllm_bench_serve_completions(running: Running, prompt: Any) -> None:
    payload = {
        "model": MODEL, "prompt": prompt, "repetition_penalty": 1.0, "max_tokens": 12, "logprobs": None, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0.0,
    }  # fmt: skip
    reply = running.post("/v1/completions", payload, headers=HEADERS)
    assert reply.status == 200
    *chunks, done = vllm_messages(reply.body)
    assert done == "[DONE]"
    first, output_tokens, text = False, None, ""
    for chunk in chunks:
        data = json.loads(chunk)
        if choices := data.get("choices"):
            first = True
            text += choices[0].get("text") or ""
        elif usage := data.get("usage"):
            output_tokens = usage.get("completion_tokens")
    assert first
    assert output_tokens == 12


def test_vllm_bench_serve_chat(running: Running) -> None:
    payload = {
        "model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "Once upon"}]}],
        "max_completion_tokens": 9, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    *chunks, done = vllm_messages(running.post("/v1/chat/completions", payload, headers=HEADERS).body)
    assert done == "[DONE]"
    events = list(map(json.loads, chunks))
    assert events[0]["choices"][0]["delta"]["content"] is not None
    assert events[-1]["usage"]["completion_tokens"] == 9
    assert running.ask("GET", "/v1/models", headers=HEADERS).json["data"][0]["id"] == MODEL


def test_sglang_bench_serving(running: Running) -> None:
    payload = {
        "model": MODEL, "prompt": "Once upon", "temperature": 0.0, "best_of": 1, "max_tokens": 8, "stream": True,
        "ignore_eos": True,
    }  # fmt: skip
    *chunks, done = vllm_messages(running.post("/v1/completions", payload).body)
    assert done == "[DONE]"
    assert all("text" in json.loads(chunk)["choices"][0] for chunk in chunks)  # it reads without looking


def test_guidellm(running: Running) -> None:
    assert running.ask("GET", "/health").status == 200
    payload = {
        "model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "Once upon"}]}],
        "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_completion_tokens": 7, "max_tokens": 7, "stop": None, "ignore_eos": True,
    }  # fmt: skip
    *chunks, done = vllm_messages(running.post("/v1/chat/completions", payload).body)
    assert done == "[DONE]"
    usages = [event["usage"] for event in map(json.loads, chunks) if event.get("usage")]
    assert usages[-1]["prompt_tokens"] > 0
    assert usages[-1]["completion_tokens"] == 7


def test_aiperf(running: Running) -> None:
    payload = {
        "model": MODEL, "messages": [{"role": "user", "name": "text", "content": "Once upon"}], "stream": True,
        "max_completion_tokens": 6, "ignore_eos": True, "min_tokens": 6,
    }  # fmt: skip
    assert running.post("/v1/chat/completions", payload).status == 200
