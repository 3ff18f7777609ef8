"""The `openai` package from PyPI, unmodified, and tools: a fake device that says what a model would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.runtime_fakes import EOS
from tests.unit.server.conftest import MODEL, Running
from tests.unit.server.test_chat_api import CALL, TOOLS

QUESTION: Any = [{"role": "user", "content": "Weather in Paris?"}]
ARGUMENTS = {"city": "Paris, é"}


@pytest.fixture
def says_call(running: Running) -> Iterator[None]:
    """The model answers with two calls, token by token."""
    text = "Let me see. " + CALL + "\n" + CALL
    running.device.seconds = 0.002
    running.device.say([*running.service.llm.tokenizer.encode(text), EOS])
    yield
    running.device.say([])
    running.device.seconds = 0


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.usefixtures("says_call")
def test_calls(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS, max_tokens=250)  # type: ignore[call-overload]
    [choice] = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [ARGUMENTS, ARGUMENTS]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    again = [*QUESTION, choice.message.model_dump(exclude_none=True)]
    again.append({"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "18 C"})
    assert client.chat.completions.create(model=MODEL, messages=again, tools=TOOLS, max_tokens=3).choices  # type: ignore[call-overload]


@pytest.mark.usefixtures("says_call")
def test_streamed_calls_are_assembled_by_the_client(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, tools=TOOLS, max_tokens=250) as stream:  # type: ignore[arg-type]
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    assert len(pieces) > 4
    assert message.content == "Let me see. "
    assert [json.loads(call.function.arguments) for call in message.tool_calls or []] == [ARGUMENTS, ARGUMENTS]
    assert [call.function.name for call in message.tool_calls or []] == ["weather", "weather"]


@pytest.mark.usefixtures("says_call")
def test_the_asynchronous_client_too(running: Running) -> None:
    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(  # type: ignore[call-overload]
                model=MODEL, messages=QUESTION, tools=TOOLS, max_tokens=250, stream=True
            )
            return [chunk async for chunk in stream]

    chunks = asyncio.run(run())
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(call.function.arguments or "" for call in calls if call.index == 1) == json.dumps(
        ARGUMENTS, ensure_ascii=False
    )
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_overload_is_retried_by_the_client(running: Running, client: openai.OpenAI) -> None:
    """The client waits as Retry-After says, and then gets its answer."""
    service = running.service
    under_way, service._under_way = service._under_way, service.llm.max_requests
    with pytest.raises(openai.RateLimitError) as refused:
        client.completions.create(model=MODEL, prompt="a")
    assert refused.value.response.headers["retry-after"] == "1"

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=3) as client:
            asked = asyncio.create_task(client.completions.create(model=MODEL, prompt="a"))
            await asyncio.sleep(0.3)
            service._under_way = under_way
            return await asked

    assert asyncio.run(run()).choices
