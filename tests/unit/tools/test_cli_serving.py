"""`generate` and `chat` as programs: what they print, and what scripts can read of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

import warploom
from tests.unit.tools.conftest import RunCLI
from warploom import LLM, SamplingParams
from warploom.runtime.chat_template import Message
from warploom.runtime.output import Delta
from warploom.tools.chat import Conversation

GREEDY = ("--temperature", "0")


@pytest.fixture(scope="module")
def answers(tiny_artifact: Path) -> list[str]:
    """What the API answers to two prompts, greedily, with 8 tokens."""
    with warploom.LLM(tiny_artifact) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        return [completion.text for completion in llm.generate(["hello hello", "loom"], params)]


def test_generate_prints_what_the_api_answers(run_cli: RunCLI, tiny_artifact: Path, answers: list[str]) -> None:
    flags = (*GREEDY, "--max-tokens", "8", "--ignore-eos")
    result = run_cli("generate", tiny_artifact, "hello hello", *flags)
    assert (result.returncode, result.stdout, result.stderr) == (0, answers[0] + "\n", "")
    result = run_cli("generate", tiny_artifact, "-", *flags, "--stats", stdin="hello hello")
    assert result.stdout == answers[0] + "\n"
    assert "8 tokens" in result.stderr
    result = run_cli("generate", tiny_artifact, "hello hello", "loom", *flags)
    assert all(answer in result.stdout for answer in answers)


def test_generate_json_is_one_object(run_cli: RunCLI, tiny_artifact: Path, answers: list[str]) -> None:
    flags = (*GREEDY, "--max-tokens", "8", "--ignore-eos", "--logprobs", "3")
    result = run_cli("generate", tiny_artifact, "hello hello", "loom", *flags, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["artifact"] == str(tiny_artifact)
    assert 0 < report["load_seconds"] < report["total_seconds"]
    assert [completion["text"] for completion in report["completions"]] == answers
    for completion in report["completions"]:
        assert completion["finish_reason"] == "length"
        assert len(completion["token_ids"]) == len(completion["logprobs"]) == 8
        assert len(completion["logprobs"][0]["top"]) == 3


def test_generate_chat_uses_the_template(run_cli: RunCLI, tiny_artifact: Path) -> None:
    result = run_cli("generate", tiny_artifact, "hello", "--chat", "--max-tokens", "2", "--json")
    prompt_ids = json.loads(result.stdout)["completions"][0]["prompt_token_ids"]
    assert prompt_ids == warploom.LLM(tiny_artifact).tokenizer.encode_chat([{"role": "user", "content": "hello"}])


def test_generate_chat_begins_with_the_instructions(run_cli: RunCLI, tiny_artifact: Path) -> None:
    flags = ("--chat", "--system", "be brief", "--max-tokens", "2", "--json", "--device", "cpu")
    result = run_cli("generate", tiny_artifact, "hello", *flags)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    prompt_ids = json.loads(result.stdout)["completions"][0]["prompt_token_ids"]
    assert prompt_ids == warploom.LLM(tiny_artifact).tokenizer.encode_chat(messages)


@pytest.mark.parametrize(("flags", "named"), [(("--system", "be brief"), "--chat"), (("--logprobs", "2"), "--json")])
def test_flags_without_what_they_belong_to_are_refused(
    run_cli: RunCLI, tiny_artifact: Path, flags: tuple[str, ...], named: str
) -> None:
    result = run_cli("generate", tiny_artifact, "hello", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"fix: add {named}" in result.stderr


def test_answers_have_the_form_that_flags_ask_for(run_cli: RunCLI, tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"enum": ["lo", "om"]}))
    (tmp_path / "yes.lark").write_text('start: "loom" | "lo"')
    for flags, allowed in (
        (("--choice", "lo", "--choice", "hello"), {"lo", "hello"}),
        (("--regex", "(lo){1,2}"), {"lo", "lolo"}),
        (("--json-schema", tmp_path / "schema.json"), {'"lo"', '"om"'}),
        (("--grammar", tmp_path / "yes.lark"), {"loom", "lo"}),
    ):
        result = run_cli("generate", tiny_artifact, "hello", *flags)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip() in allowed
    result = run_cli("generate", tiny_artifact, "hello", "--json-schema", tmp_path / "nowhere.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "nowhere.json cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [(("--temperature", "nan"), "temperature"), (("--threads", "0"), "threads"), (("--top-k", "-1"), "top_k")],
)
def test_refused_requests_exit_with_2(run_cli: RunCLI, tiny_artifact: Path, flags: tuple[str, ...], named: str) -> None:
    result = run_cli("generate", tiny_artifact, "hello", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert named in result.stderr


def test_a_prompt_longer_than_the_context_is_refused(run_cli: RunCLI, tiny_artifact: Path) -> None:
    result = run_cli("generate", tiny_artifact, "x" * 200)
    assert result.returncode == 2
    assert "128" in result.stderr


def test_input_that_is_not_utf8_is_refused(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "warploom.tools.cli", "generate", str(tiny_artifact), "-"]
    result = subprocess.run(command, input=b"ok \xff", capture_output=True, check=False)
    assert result.returncode == 2
    assert b"not valid Unicode" in result.stderr


def long_generation(artifact: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of an answer."""
    command = [sys.executable, "-m", "warploom.tools.cli", "generate", str(artifact), "hello"]
    flags = ["--ignore-eos", "--max-tokens", "120", *GREEDY, "--logit-bias", "3=100"]  # token 3: one plain character
    process = subprocess.Popen(command + flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(1)
    return process


def test_interrupted_in_an_answer_it_exits_quietly_with_130(tiny_artifact: Path) -> None:
    with long_generation(tiny_artifact) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 0)  # 0: the answer was complete before the signal came
    assert errors == b""


def test_a_reader_that_goes_away_ends_it_quietly(tiny_artifact: Path) -> None:
    with long_generation(tiny_artifact) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode in (141, 0)
    assert errors == b""


class RecordedLLM:
    """Notes each conversation that it is asked to continue, and answers with their number."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def stream_chat(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[Delta]:
        self.asked.append([f"{message['role']}: {message['content']}" for message in messages])
        yield Delta(str(len(self.asked)), (7,), None, "stop", None)


def test_chat_remembers_and_forgets() -> None:
    llm = RecordedLLM()
    conversation = Conversation(cast(LLM, llm), SamplingParams(), system=None)
    lines = ["a", "b", "", "/reset", "c", "/system be brief", "d", "/reset", "e", "/system", "f"]
    assert all(conversation.take(line) for line in lines)
    assert not conversation.take("/exit")
    assert not conversation.take("/quit")
    assert llm.asked == [
        ["user: a"],
        ["user: a", "assistant: 1", "user: b"],
        ["user: c"],
        ["system: be brief", "user: d"],
        ["system: be brief", "user: e"],
        ["user: f"],
    ]


def test_chat_answers_lines_of_standard_input(run_cli: RunCLI, tiny_artifact: Path) -> None:
    flags = (*GREEDY, "--max-tokens", "6", "--ignore-eos")
    with warploom.LLM(tiny_artifact) as llm:
        params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        first = llm.chat([{"role": "user", "content": "hello"}], params).text
    result = run_cli("chat", tiny_artifact, *flags, stdin="hello\n/reset\nhello\n/exit\nhello\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{first}\n{first}\n"


def test_chat_names_unknown_commands_and_survives_long_messages(run_cli: RunCLI, tiny_artifact: Path) -> None:
    result = run_cli("chat", tiny_artifact, "--max-tokens", "2", stdin=f"/wat\n{'x' * 300}\n/help\n")
    assert result.returncode == 0
    assert "no command /wat" in result.stderr
    assert "/reset begins a new conversation" in result.stderr
    assert "/system TEXT" in result.stdout
