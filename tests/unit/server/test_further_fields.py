"""Fields beyond OpenAI's through the `openai` client: beam search, allowed tokens, cut prompts and others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests.unit.runtime.test_beam_search import logprobs_after
from tests.unit.server.conftest import MODEL, Running, SlowDevice, StartServer
from warploom.runtime.artifact import Artifact
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.device import StepOutput
from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.runtime.step_batch import StepBatch

pytestmark = pytest.mark.usefixtures("quiet")
PROMPT = "Once upon a time"


class LikelyDevice(SlowDevice):
    """A device whose likeliest tokens are those of a language model."""

    def run(self, batch: StepBatch) -> StepOutput:
        output = super().run(batch)
        if not batch.top_logprobs:
            return output
        rows = np.array([logprobs_after(self._read(batch, int(row)), self.vocab_size) for row in batch.logit_rows])
        tops = np.argsort(-rows, axis=1, kind="stable")[:, :20].astype(np.int32)
        return output._replace(top_tokens=tops, top_logprobs=np.take_along_axis(rows, tops, axis=1))


@pytest.fixture(scope="module")
def running(start_server: StartServer, artifact: Artifact) -> Running:
    return start_server(device=LikelyDevice(artifact))


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def searched(artifact: Artifact, prompt: str | list[int], **params: Any) -> list[Completion]:
    with LLM(artifact, device=LikelyDevice(artifact)) as llm:
        return llm.beam_search([prompt] if isinstance(prompt, list) else prompt, BeamSearchParams(**params))[0]


def test_beam_search(client: openai.OpenAI, artifact: Artifact) -> None:
    beams = {"use_beam_search": True, "length_penalty": 0.5, "early_stopping": True}
    reply = client.completions.create(
        model=MODEL, prompt=PROMPT, n=2, best_of=4, max_tokens=6, logprobs=1, extra_body=beams
    )
    expected = searched(artifact, PROMPT, beam_width=4, n=2, max_tokens=6, length_penalty=0.5, early_stopping=True)
    assert [choice.text for choice in reply.choices] == [one.text for one in expected]
    assert [choice.finish_reason for choice in reply.choices] == [one.finish_reason for one in expected]
    for choice, one in zip(reply.choices, expected, strict=True):
        assert choice.logprobs is not None
        logprobs = [value for value in choice.logprobs.token_logprobs or [] if value is not None]
        assert one.score == pytest.approx(sum(logprobs) / len(logprobs) ** 0.5, abs=1e-5)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == sum(len(one.token_ids) for one in expected)


def test_beam_search_of_several_prompts_in_a_stream(client: openai.OpenAI, artifact: Artifact) -> None:
    prompts, texts = [PROMPT, "naïve"], dict.fromkeys(range(4), "")
    for chunk in client.completions.create(
        model=MODEL, prompt=prompts, n=2, max_tokens=5, stream=True, temperature=0, extra_body={"use_beam_search": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    expected = [one.text for prompt in prompts for one in searched(artifact, prompt, beam_width=2, max_tokens=5)]
    assert list(texts.values()) == expected


def test_beam_search_of_a_chat(client: openai.OpenAI, running: Running, artifact: Artifact) -> None:
    messages: Any = [{"role": "user", "content": PROMPT}]
    reply = client.chat.completions.create(
        model=MODEL, messages=messages, n=3, max_tokens=5, extra_body={"use_beam_search": True}
    )
    prompt = running.service.llm.tokenizer.encode_chat(messages)
    expected = searched(artifact, prompt, beam_width=3, max_tokens=5)
    assert [choice.message.content for choice in reply.choices] == [one.text for one in expected]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.5), ("top_p", 0.5), ("top_k", 3), ("min_p", 0.1), ("presence_penalty", 1), ("stop", "a"),
        ("logit_bias", {"5": 1}), ("bad_words", ["a"]), ("allowed_token_ids", [5]), ("min_tokens", 2),
        ("response_format", {"type": "json_object"}), ("length_penalty", 100), ("early_stopping", "soon"),
        ("best_of", 20),
    ],
)  # fmt: skip
def test_what_means_nothing_to_a_search_is_refused(running: Running, field: str, value: Any) -> None:
    reply = running.complete(**{"use_beam_search": True, field: value})
    assert reply.status == 400, reply.body
    assert reply.json["error"]["param"] == field


def test_fields_of_searches_need_a_search(running: Running) -> None:
    assert running.complete(length_penalty=1.0, early_stopping=False).status == 200
    for name, value in (("length_penalty", 2.0), ("early_stopping", True)):
        reply = running.complete(**{name: value})
        assert (reply.status, reply.json["error"]["param"]) == (400, name)


def test_only_allowed_tokens(client: openai.OpenAI, running: Running) -> None:
    allowed = [70, 300, 99]
    body = {"allowed_token_ids": allowed, "return_tokens_as_token_ids": True}
    for more in ({}, {"min_tokens": 3}, {"repetition_penalty": 1.2}):
        reply = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=40, logprobs=0, n=2, extra_body=body | more
        )
        for choice in reply.choices:
            assert choice.logprobs is not None
            assert set(choice.logprobs.tokens or []) <= {f"token_id:{token}" for token in allowed}
            assert len(choice.logprobs.tokens or []) == 40
    assert running.complete(allowed_token_ids=[10**6]).status == 400
    guided = running.complete(allowed_token_ids=[5], response_format={"type": "json_object"})
    assert guided.status == 400


def test_cut_prompts(client: openai.OpenAI, running: Running) -> None:
    tokens = running.service.llm.tokenizer.encode(PROMPT)
    assert len(tokens) > 3
    whole = client.completions.create(model=MODEL, prompt=tokens[-3:], max_tokens=6, seed=1)
    for prompt in (PROMPT, tokens):
        cut = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=6, seed=1, extra_body={"truncate_prompt_tokens": 3}
        )
        assert cut.choices[0].text == whole.choices[0].text
        assert cut.usage is not None
        assert cut.usage.prompt_tokens == 3
    most = running.service.llm.max_context
    long = client.completions.create(
        model=MODEL, prompt="a " * 2 * most, max_tokens=6, extra_body={"truncate_prompt_tokens": -1}
    )
    assert long.usage is not None
    assert long.usage.prompt_tokens == most - 6
    assert running.complete(truncate_prompt_tokens=0).status == 400


def test_special_tokens_may_show(client: openai.OpenAI, running: Running) -> None:
    running.device.say([70, 1, 70, 0])
    shown = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=3, extra_body={"skip_special_tokens": False}
    )
    letter = running.service.llm.tokenizer.token_text(70)
    assert shown.choices[0].text == f"{letter}<|im_start|>{letter}"
    running.device.say([70, 1, 70, 0])
    assert client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=3).choices[0].text == letter * 2
    running.device.say([])


def test_a_final_message_may_be_continued(client: openai.OpenAI, running: Running) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once upon "}]
    chat = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=6, seed=1, extra_body={"continue_final_message": True}
    )
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOnce upon"
    plain = client.completions.create(model=MODEL, prompt=text, max_tokens=6, seed=1)
    assert chat.choices[0].message.content == plain.choices[0].text
    refused = running.chat(continue_final_message=True, add_generation_prompt=True)
    assert (refused.status, refused.json["error"]["param"]) == (400, "continue_final_message")


def test_prompt_logprobs(client: openai.OpenAI, running: Running) -> None:
    tokens = running.service.llm.tokenizer.encode(PROMPT)
    echoed = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, logprobs=0, echo=True, seed=1)
    reply = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, n=2, extra_body={"prompt_logprobs": 3})
    for choice in reply.choices:
        first, *others = choice.model_extra["prompt_logprobs"]  # type: ignore[index]
        assert first is None
        assert [next(iter(one)) for one in others] == [str(token) for token in tokens[1:]]
        assert echoed.choices[0].logprobs is not None
        values = [one[str(token)]["logprob"] for one, token in zip(others, tokens[1:], strict=True)]
        assert values == (echoed.choices[0].logprobs.token_logprobs or [])[1 : len(tokens)]
        assert {entry["rank"] for one in others for entry in one.values()} >= {1, 2, 3}
    chat = running.chat(prompt_logprobs=0).json
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert running.complete(prompt_logprobs=1, stream=True).status == 400
    assert running.complete(prompt_logprobs=1, echo=True, logprobs=1).status == 400
