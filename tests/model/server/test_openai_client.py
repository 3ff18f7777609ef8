"""The `openai` package from PyPI, unmodified, against the real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.model.server.conftest import MODEL, Compile, ServerProcess
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

PROMPTS = ["The capital of France is", "def add(a, b):\n    return", "Once upon a time, in a village"]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def client(served: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_greedy_completions_are_the_models(client: openai.OpenAI, compiled_smollm2: Compile) -> None:
    reply = client.completions.create(model=MODEL, prompt=PROMPTS, max_tokens=24, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    with LLM(compiled_smollm2("bf16")) as llm:
        expected = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=24))
        ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    assert [choice.text for choice in reply.choices] == [one.text for one in expected]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == sum(len(one.token_ids) for one in expected)
    as_ids = client.completions.create(model=MODEL, prompt=ids, max_tokens=24, temperature=0)
    assert [choice.text for choice in as_ids.choices] == [choice.text for choice in reply.choices]


def test_streams_give_what_whole_answers_give(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt=PROMPTS[0], max_tokens=24, temperature=0, logprobs=3)
    text, tokens, usage = "", [], None
    for chunk in client.completions.create(
        model=MODEL, prompt=PROMPTS[0], max_tokens=24, temperature=0, logprobs=3, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            tokens += choice.logprobs.tokens or [] if choice.logprobs else []
    assert text == whole.choices[0].text
    assert whole.choices[0].logprobs is not None
    assert tokens == whole.choices[0].logprobs.tokens
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_chats_and_streamed_chats(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0)  # type: ignore[arg-type]
    assert whole.choices[0].message.role == "assistant"
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=24, temperature=0, logprobs=True, top_logprobs=2, stream=True
        )  # type: ignore[arg-type]
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[-1].finish_reason == whole.choices[0].finish_reason == "length"
    assert sum(len(choice.logprobs.content or []) for choice in choices if choice.logprobs) == 24


def test_seeds_repeat_and_n_differ(client: openai.OpenAI) -> None:
    def texts(**more: int) -> list[str]:
        reply = client.completions.create(model=MODEL, prompt=PROMPTS[2], max_tokens=12, temperature=1, **more)  # type: ignore[arg-type]
        return [choice.text for choice in reply.choices]

    assert texts(seed=1, n=3) == texts(seed=1, n=3)
    assert len(set(texts(seed=1, n=3))) == 3


def test_many_at_once_are_as_each_alone(served: ServerProcess) -> None:
    """The asynchronous client, with some that leave in the middle."""

    async def ask(client: openai.AsyncOpenAI, prompt: str, leave: bool) -> str:
        stream = await client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=12, temperature=0, stream=True
        )  # fmt: skip
        async with stream:
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].text
                if leave:
                    break
            return text

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            alone = [await ask(client, prompt, False) for prompt in PROMPTS]
            together = await asyncio.gather(*(ask(client, PROMPTS[i % 3], i % 4 == 3) for i in range(12)))
            for number, text in enumerate(together):
                if number % 4 != 3:
                    assert text == alone[number % 3]

    asyncio.run(run())


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="a", n=1000)
    assert refused.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model=MODEL, prompt="word " * 9000)
    assert [model.id for model in client.models.list()] == [MODEL]


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    country: Literal["France", "Italy"]
    population: int = pydantic.Field(ge=0, le=99_999_999)


def test_structured_output(client: openai.OpenAI) -> None:
    """As the client makes it of a class, which it also parses; whole and streamed."""
    asked: Any = [{"role": "user", "content": "Tell me of Paris, as JSON."}]
    options: Any = {"model": MODEL, "messages": asked, "max_tokens": 120, "temperature": 0, "response_format": City}
    [choice] = client.chat.completions.parse(**options).choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, City)
    with client.chat.completions.stream(**options) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == choice.message.parsed
