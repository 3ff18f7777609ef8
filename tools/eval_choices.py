"""`warploom eval choices`: multiple choice, answered by the likeliest continuation (as lm-eval's accuracy is)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from warploom.errors import InvalidRequestError
from warploom.tools.eval_common import add_common_flags, open_teacher, print_result, read_rows
from warploom.tools.status import Told, counted, status
from warploom.tools.teacher_forcing import Teacher


class ChoiceRow(msgspec.Struct, frozen=True):
    """A question: its text, what may follow (with the space in front, if there is one), and which is right (from 0)."""

    context: str
    choices: list[str]
    answer: int


class ChoicesResult(msgspec.Struct, frozen=True):
    """What `warploom eval choices` found.

    Attributes:
        accuracy: share of questions whose right choice has the greatest log-probability.
        accuracy_per_byte: the same, of log-probabilities divided by the choices' bytes.
        mean_answer_nll: of the right choices, natural.
        picked: the choice of `accuracy` for each question.
    """

    artifact: str
    model: str
    quantization: str
    num_questions: int
    accuracy: float
    accuracy_per_byte: float
    mean_answer_nll: float
    seconds: float
    picked: list[int]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Multiple choice. Each line of FILE is a question as JSON:\n"
        '  {"context": "The capital of France is", "choices": [" Paris", " Rome"], "answer": 0}'
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("file", metavar="FILE", help="JSON Lines; - reads standard input")
    add_common_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer the questions of a parsed command line."""
    rows = list(read_rows(args.file, ChoiceRow))
    with open_teacher(args) as teacher, status() as show:
        result = evaluate_choices(teacher, rows, counted(show, "questions answered"))
    print_result(result, args.json)


def evaluate_choices(
    teacher: Teacher, rows: Sequence[ChoiceRow], progress: Told = lambda done, total: None
) -> ChoicesResult:
    """Answer all questions; `progress` is called whenever one is answered.

    Raises:
        InvalidRequestError: there is none, one has no right answer, or one is longer than the context.
    """
    started = time.perf_counter()
    for number, row in enumerate(rows, 1):
        if not 0 <= row.answer < len(row.choices) or not all(row.choices):
            raise InvalidRequestError(
                f"Question {number} is not valid",
                expected="choices that are not empty, and the number of the right one, from 0",
                found=f"{len(row.choices)} choices, answer {row.answer}",
            )
    if not rows:
        raise InvalidRequestError("There is no question", expected="at least one line")
    scores = []
    for number, row in enumerate(rows, 1):
        scores.append([_logprob(teacher, row.context, choice) for choice in row.choices])
        progress(number, len(rows))
    per_byte = [
        [score / len(choice.encode()) for score, choice in zip(each, row.choices, strict=True)]
        for each, row in zip(scores, rows, strict=True)
    ]
    answers = [row.answer for row in rows]
    picked = list(map(_best, scores))
    manifest = teacher.artifact.manifest
    return ChoicesResult(
        artifact=str(teacher.artifact.path),
        model=manifest.model.id,
        quantization=manifest.quantization,
        num_questions=len(rows),
        accuracy=_share(picked, answers),
        accuracy_per_byte=_share(list(map(_best, per_byte)), answers),
        mean_answer_nll=-sum(each[row.answer] for each, row in zip(scores, rows, strict=True)) / len(rows),
        seconds=time.perf_counter() - started,
        picked=picked,
    )


def _logprob(teacher: Teacher, context: str, choice: str) -> float:
    """Log-probability of `choice` after `context`; space at the context's end belongs to the choice (as in lm-eval)."""
    stripped = context.rstrip()
    whole = teacher.tokenizer.encode(context + choice)
    before = teacher.tokenizer.encode(stripped)
    start = max(1, min(len(before), len(whole) - 1))
    return float(teacher.score(whole, start).logprobs.sum())


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda index: scores[index])


def _share(picked: Sequence[int], answers: Sequence[int]) -> float:
    return sum(one == other for one, other in zip(picked, answers, strict=True)) / len(answers)
