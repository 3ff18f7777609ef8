"""`warploom eval nll` on a device whose logits are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.runtime_fakes import FakeDevice, fake_artifact
from warploom.errors import InvalidRequestError
from warploom.runtime.step_batch import StepBatch
from warploom.tools.eval_nll import evaluate_nll, split
from warploom.tools.teacher_forcing import Teacher

VOCAB = 340


class HistoryDevice(FakeDevice):
    """Logits that depend on the sum of the whole history, read back through the page table."""

    def __init__(self) -> None:
        super().__init__(num_pages=16, page_size=4, max_tokens=7, max_seqs=1, max_rows=7)

    def logits(self, batch: StepBatch) -> NDArray[np.float32]:
        self.execute(batch)
        rows = [self._read(batch, int(row)) for row in batch.logit_rows]
        return np.array([history_logits(row) for row in rows], np.float32).reshape(-1, VOCAB)


def history_logits(history: list[int]) -> NDArray[np.float32]:
    return (np.arange(VOCAB) * (1 + sum(history)) % 97 / 9).astype(np.float32)


def expected_logprob(history: list[int], token: int) -> float:
    logits = history_logits(history).astype(np.float64)
    return float(logits[token] - np.log(np.exp(logits).sum()))


@given(st.integers(2, 60), st.integers(2, 20), st.integers(0, 1), st.data())
def test_windows_score_each_token_once_with_enough_before_it(
    num: int, size: int, first: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, size - first))
    windows = list(split(num, size, stride, first))
    assert [token for w in windows for token in range(w.scored, w.end)] == list(range(first, num))
    for window in windows:
        assert window.begin >= 0
        assert window.end - window.begin <= size
        assert window.begin == 0 or window.scored - window.begin >= size - stride
        assert window.scored - window.begin >= first


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return Teacher(fake_artifact(tmp_path / "artifact", max_context=40), device=HistoryDevice())


def test_each_token_follows_all_before_it_whatever_the_chunks(teacher: Teacher) -> None:
    ids = [5, 9, 300, 7, 7, 12, 80, 3, 4, 250, 6, 1, 90, 91, 92, 93, 94, 95]
    for start in (1, 6, 7, 8, 17):
        scores = teacher.score(ids, start)
        expected = [expected_logprob(ids[:i], ids[i]) for i in range(start, len(ids))]
        np.testing.assert_allclose(scores.logprobs, expected, atol=1e-5)
        best = [ids[i] == history_logits(ids[:i]).argmax() for i in range(start, len(ids))]
        assert scores.greedy.tolist() == best


def test_the_figures_are_sums_over_the_scored_tokens(teacher: Teacher) -> None:
    text = "Once upon a time, there was a loom."
    tokens = teacher.tokenizer.encode(text)
    result = evaluate_nll(teacher, text)
    nll = -sum(expected_logprob(tokens[:i], tokens[i]) for i in range(1, len(tokens)))
    assert result.num_scored == len(tokens) - 1
    assert result.nll == pytest.approx(nll, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(nll / (len(tokens) - 1)), rel=1e-6)
    num_bytes = len(text.encode()) - len(teacher.tokenizer.token_bytes(tokens[0]))
    assert result.bits_per_byte == pytest.approx(nll / math.log(2) / num_bytes, rel=1e-6)


def test_a_text_longer_than_the_context_is_read_in_windows(teacher: Teacher) -> None:
    text = "It wove cloth, and it wove words. " * 12
    tokens = teacher.tokenizer.encode(text)
    assert len(tokens) > 2 * teacher.max_context
    result = evaluate_nll(teacher, text, stride=10)
    assert result.num_scored == len(tokens) - 1
    json.dumps(result.nll)


@pytest.mark.parametrize(
    ("text", "stride"), [("", None), ("a", None), ("Once upon a time", 0), ("Once upon a time", 40)]
)
def test_what_cannot_be_scored_is_refused(teacher: Teacher, text: str, stride: int | None) -> None:
    with pytest.raises(InvalidRequestError):
        evaluate_nll(teacher, text, stride=stride)


def test_a_context_beyond_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"2\.\.40"):
        Teacher(fake_artifact(tmp_path / "artifact", max_context=40), device=HistoryDevice(), max_context=41)
