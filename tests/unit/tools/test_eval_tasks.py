"""`warploom eval choices` and `generate` on a device whose logits are known, and through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.runtime_fakes import FakeDevice, fake_artifact
from tests.unit.tools.conftest import RunCLI
from tests.unit.tools.test_eval_nll import HistoryDevice, expected_logprob
from warploom.errors import InvalidRequestError
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.eval_choices import ChoiceRow, evaluate_choices
from warploom.tools.eval_generate import TaskRow, evaluate_generate
from warploom.tools.teacher_forcing import Teacher

CHOICES = [" a loom", " words", " it wove cloth and words"]


def test_the_likeliest_continuation_is_picked(tmp_path: Path) -> None:
    with Teacher(fake_artifact(tmp_path / "artifact", max_context=64), device=HistoryDevice()) as teacher:
        result = evaluate_choices(teacher, [ChoiceRow("Once upon a time", CHOICES, answer) for answer in range(3)])
        encode = teacher.tokenizer.encode
        length = len(encode("Once upon a time"))
        scores = []
        for choice in CHOICES:
            ids = encode("Once upon a time" + choice)
            scores.append(sum(expected_logprob(ids[:i], ids[i]) for i in range(length, len(ids))))
    best = scores.index(max(scores))
    assert result.picked == [best] * 3
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.mean_answer_nll == pytest.approx(-sum(scores) / 3, rel=1e-6)


@pytest.mark.parametrize("row", [ChoiceRow("a", ["b"], 1), ChoiceRow("a", [], 0), ChoiceRow("a", [""], 0)])
def test_questions_without_an_answer_are_refused(tmp_path: Path, row: ChoiceRow) -> None:
    with Teacher(fake_artifact(tmp_path / "artifact", max_context=40), device=HistoryDevice()) as teacher:
        with pytest.raises(InvalidRequestError, match="Question 1"):
            evaluate_choices(teacher, [row])
        with pytest.raises(InvalidRequestError):
            evaluate_choices(teacher, [])


def test_answers_are_compared(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path / "artifact")
    params = SamplingParams(temperature=0, seed=1, max_tokens=6, ignore_eos=True)
    with LLM(artifact, device=FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)) as llm:
        messages = [{"role": "user", "content": "b"}]
        texts = [llm.generate(["a"], params)[0].text, llm.chat(messages, params).text]
        rows = [
            TaskRow(prompt="a", answer=["x", f" {texts[0]} "]), TaskRow(messages=messages, answer=texts[1][1:3]),
            TaskRow(prompt="c", answer="no model says this"),
        ]  # fmt: skip
        result = evaluate_generate(llm, rows, params)
        assert result.texts[:2] == [text.strip() for text in texts]
        assert result.exact == pytest.approx(1 / 3)
        assert result.contains == pytest.approx(2 / 3)
        first = re.compile("^(.)", re.DOTALL)
        assert evaluate_generate(llm, rows[:1], params, first).texts == [texts[0][0].strip()]
        for bad in (TaskRow(answer="a"), TaskRow(answer="a", prompt="b", messages=messages)):
            with pytest.raises(InvalidRequestError):
                evaluate_generate(llm, [bad], params)


def test_the_command_line(run_cli: RunCLI, tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the loom wove cloth " * 5)
    (tmp_path / "choices").write_text('{"context": "the", "choices": [" loom", " cloth"], "answer": 0}\n\n')
    (tmp_path / "tasks").write_text('{"prompt": "the", "answer": "loom"}\n')
    (tmp_path / "broken").write_text('{"prompt": "the", "answer": "loom"}\n{"prompt": 1}\n')
    nll = run_cli("eval", "nll", tiny_artifact, tmp_path / "text", "--json", "--context", "16", "--threads", "1")
    assert json.loads(nll.stdout)["perplexity"] > 1, nll.stderr
    choices = run_cli("eval", "choices", tiny_artifact, tmp_path / "choices", "--json", "--threads", "1")
    assert json.loads(choices.stdout)["accuracy"] in (0, 1), choices.stderr
    generate = run_cli("eval", "generate", tiny_artifact, tmp_path / "tasks", "--max-tokens", "3", "--threads", "1")
    assert "exact" in generate.stdout, generate.stderr
    broken = run_cli("eval", "generate", tiny_artifact, tmp_path / "broken")
    assert broken.returncode == 2
    assert "Line 2" in broken.stderr
    assert run_cli("eval", "nll", tiny_artifact, tmp_path / "none").returncode == 2
