"""`warploom eval generate`: greedy answers, compared with the right ones."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from warploom.errors import InvalidRequestError
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.eval_common import add_common_flags, print_result, read_rows
from warploom.tools.status import Told, counted, status

_DEFAULT_TOKENS = 256


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A question, as a prompt or as messages, and its right answers."""

    answer: str | list[str]
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None


class GenerateResult(msgspec.Struct, frozen=True):
    """What `warploom eval generate` found.

    Attributes:
        exact: share of answers that equal a right one, spaces around them aside.
        contains: share of those that contain a right one.
        texts: the answers, as they were compared.
    """

    artifact: str
    model: str
    quantization: str
    num_questions: int
    exact: float
    contains: float
    num_tokens: int
    seconds: float
    texts: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Greedy answers against right ones. Each line of FILE is a question as JSON:\n"
        '  {"prompt": "2 + 2 =", "answer": "4"}   or   {"messages": [...], "answer": ["4", "four"]}'
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("file", metavar="FILE", help="JSON Lines; - reads standard input")
    parser.add_argument("--max-tokens", type=int, default=_DEFAULT_TOKENS, metavar="N", help="most tokens of an answer")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end an answer before TEXT")
    parser.add_argument(
        "--extract",
        metavar="REGEX",
        help="compare the last match only: its first group, or all of it (GSM8K: '[0-9.]+')",
    )
    add_common_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer the questions of a parsed command line."""
    try:
        extract = re.compile(args.extract) if args.extract else None
    except re.error as error:
        raise InvalidRequestError("The expression --extract is not valid", found=str(error)) from error
    rows = list(read_rows(args.file, TaskRow))
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens, stop=args.stop)
    with LLM(args.artifact, device=args.device, threads=args.threads) as llm, status() as show:
        result = evaluate_generate(llm, rows, params, extract, counted(show, "questions answered"))
    print_result(result, args.json)


def evaluate_generate(
    llm: LLM,
    rows: Sequence[TaskRow],
    params: SamplingParams,
    extract: re.Pattern[str] | None = None,
    progress: Told | None = None,
) -> GenerateResult:
    """Answer all questions, batched; `progress` is called whenever one is answered.

    Raises:
        InvalidRequestError: there is none, or one has not exactly one of prompt and messages.
    """
    if not rows:
        raise InvalidRequestError("There is no question", expected="at least one line")
    started = time.perf_counter()
    prompts = [_prompt(llm, row, number) for number, row in enumerate(rows, 1)]
    completions = llm.generate(prompts, params, progress=progress)
    texts = [_extracted(completion.text, extract) for completion in completions]
    rights = [[row.answer] if isinstance(row.answer, str) else row.answer for row in rows]
    pairs = list(zip(texts, rights, strict=True))
    manifest = llm.artifact.manifest
    return GenerateResult(
        artifact=str(llm.artifact.path),
        model=manifest.model.id,
        quantization=manifest.quantization,
        num_questions=len(rows),
        exact=sum(text in [one.strip() for one in right] for text, right in pairs) / len(rows),
        contains=sum(any(one.strip() in text for one in right) for text, right in pairs) / len(rows),
        num_tokens=sum(len(completion.token_ids) for completion in completions),
        seconds=time.perf_counter() - started,
        texts=texts,
    )


def _prompt(llm: LLM, row: TaskRow, number: int) -> list[int]:
    if (row.prompt is None) == (row.messages is None):
        raise InvalidRequestError(f"Question {number} is not valid", expected="either a prompt or messages")
    return (
        llm.tokenizer.encode_chat(row.messages) if row.messages is not None else llm.tokenizer.encode(row.prompt or "")
    )


def _extracted(text: str, extract: re.Pattern[str] | None) -> str:
    if extract is None:
        return text.strip()
    matches = list(extract.finditer(text))
    if not matches:
        return ""
    return (matches[-1][1] if extract.groups else matches[-1][0]).strip()
