"""`warploom eval nll`: how surprised a model is by a text, token by token (teacher forcing)."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from warploom.errors import InvalidRequestError
from warploom.tools.eval_common import add_common_flags, open_teacher, print_result
from warploom.tools.number_flags import parse_positive
from warploom.tools.status import status
from warploom.tools.teacher_forcing import Teacher
from warploom.tools.text_files import read_text

_DEFAULT_CONTEXT = 2048


class Window(NamedTuple):
    """Tokens begin..end of the text are computed together; those from `scored` on are counted."""

    begin: int
    end: int
    scored: int


class NLLResult(msgspec.Struct, frozen=True):
    """What `warploom eval nll` found.

    Attributes:
        context, stride: most tokens in front of a scored one, and by how much the window moves.
        num_tokens: of the text. num_scored: those counted; without a BOS token the first one follows nothing.
        nll: sum of -log p over the scored tokens, natural. mean_nll: per token. perplexity: exp of it.
        bits_per_byte: the sum in bits over the bytes of the scored tokens: comparable between tokenizers.
        greedy_accuracy: share of the scored tokens that the model holds likeliest.
    """

    artifact: str
    model: str
    quantization: str
    text: str
    context: int
    stride: int
    num_tokens: int
    num_scored: int
    nll: float
    mean_nll: float
    perplexity: float
    bits_per_byte: float
    greedy_accuracy: float
    seconds: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "The negative log-likelihood and perplexity of a text. The text is read in windows of --context tokens; "
        "each token is scored once, after at least context - stride tokens of the text before it."
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("text", metavar="TEXT", help="a UTF-8 text file; - reads standard input")
    parser.add_argument(
        "--context", type=parse_positive, metavar="N", help=f"tokens of a window (default: {_DEFAULT_CONTEXT})"
    )
    parser.add_argument("--stride", type=int, metavar="N", help="how far the window moves (default: all of it)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="use the first N tokens of the text only")
    add_common_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Score the text of a parsed command line."""
    text = read_text(args.text)
    with open_teacher(args, args.context or _DEFAULT_CONTEXT) as teacher, status() as show:
        result = evaluate_nll(
            teacher,
            text,
            name=args.text,
            stride=args.stride,
            max_tokens=args.max_tokens,
            progress=lambda fraction: show(f"{fraction:.0%} of the text"),
        )
    print_result(result, args.json)


def evaluate_nll(
    teacher: Teacher,
    text: str,
    *,
    name: str = "",
    stride: int | None = None,
    max_tokens: int | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> NLLResult:
    """Score `text` in windows of the teacher's whole context.

    Args:
        teacher: who scores.
        text: what is scored.
        name: of the text, for the result.
        stride: by how much the window moves; None: by all of it.
        max_tokens: of the text, from its beginning; None: all.
        progress: called with the fraction that is done, after each window.

    Raises:
        InvalidRequestError: the text has no two tokens, or the stride is not in 1..context - 1.
    """
    started = time.perf_counter()
    prefix = teacher.tokenizer.encode("")  # BOS, or nothing
    tokens = teacher.tokenizer.encode(text)[len(prefix) :][:max_tokens]
    size = teacher.max_context - len(prefix)
    most = size if prefix else size - 1  # without BOS, a token of the window before stands in front
    stride = most if stride is None else stride
    _check(len(tokens), stride, most)
    windows = list(split(len(tokens), size, stride, first_scored=0 if prefix else 1))
    scores = []
    for begin, end, first in windows:
        scores.append(teacher.score([*prefix, *tokens[begin:end]], first - begin + len(prefix)))
        progress(end / len(tokens))
    nll = -sum(float(score.logprobs.sum()) for score in scores)
    scored = [token for window in windows for token in tokens[window.scored : window.end]]
    manifest = teacher.artifact.manifest
    return NLLResult(
        artifact=str(teacher.artifact.path),
        model=manifest.model.id,
        quantization=manifest.quantization,
        text=name,
        context=teacher.max_context,
        stride=stride,
        num_tokens=len(tokens),
        num_scored=len(scored),
        nll=nll,
        mean_nll=nll / len(scored),
        perplexity=math.exp(nll / len(scored)),
        bits_per_byte=nll / math.log(2) / max(1, sum(len(teacher.tokenizer.token_bytes(token)) for token in scored)),
        greedy_accuracy=float(np.concatenate([score.greedy for score in scores]).mean()),
        seconds=time.perf_counter() - started,
    )


def split(num_tokens: int, size: int, stride: int, first_scored: int) -> Iterator[Window]:
    """Cut a text into windows of at most `size` tokens that together score each token from `first_scored` on once."""
    scored, end = first_scored, min(size, num_tokens)
    yield Window(0, end, scored)
    while end < num_tokens:
        scored, end = end, min(end + stride, num_tokens)
        yield Window(max(0, end - size), end, scored)


def _check(num_tokens: int, stride: int, most: int) -> None:
    if num_tokens < 2:
        raise InvalidRequestError("The text is too short", expected="at least two tokens", found=str(num_tokens))
    if not 1 <= stride <= most:
        raise InvalidRequestError("The stride is not possible", expected=f"1..{most} tokens", found=str(stride))
