"""Requests to measure serving with: random tokens, lengths that are fixed or spread like those of chats."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from warploom.errors import InvalidRequestError
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.number_flags import parse_positive

# ShareGPT as vLLM's benchmarks sample it: 1,000 prompts of 215,196 tokens in all, answers of 198,343. Prompts and
# answers are spread about like a log-normal; the longest are cut at 1,024.
_SHAREGPT_MEANS, _SHAREGPT_SIGMAS, _SHAREGPT_LIMITS = (215, 198), (1.2, 0.9), (4, 1024)


@dataclass(frozen=True)
class Load:
    """So many requests with prompts and answers of these lengths; None: like ShareGPT's."""

    name: str
    lengths: tuple[int, int] | None
    num_requests: int


@dataclass(frozen=True)
class Work:
    """One request."""

    prompt: list[int]
    params: SamplingParams


def parse_load(text: str) -> Load:
    """Read `128/1024x512` or `sharegpt x1000`: tokens in, tokens out, requests.

    Raises:
        argparse.ArgumentTypeError: the text has another form.
    """
    lengths, _, number = text.replace(" ", "").partition("x")
    try:
        num_requests = parse_positive(number or "256")
        if lengths == "sharegpt":
            return Load(lengths, None, num_requests)
        num_in, num_out = map(parse_positive, lengths.split("/"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 128/1024x512 or sharegptx1000") from None
    return Load(lengths, (num_in, num_out), num_requests)


def make_work(load: Load, vocab_size: int, max_context: int, *, temperature: float, seed: int) -> list[Work]:
    """Return the requests of a load, always the same for the same seed; none ends before its length.

    Raises:
        InvalidRequestError: they do not fit in the context.
    """
    rng = np.random.default_rng(seed)
    lengths = _lengths(load, rng)
    longest = int(lengths.sum(axis=1).max())
    if longest > max_context:
        raise InvalidRequestError(
            f"The load {load.name} does not fit in the context", expected=f"at most {max_context}", found=str(longest)
        )
    return [
        Work(
            rng.integers(0, vocab_size, num_in).tolist(),
            SamplingParams(temperature=temperature, seed=index, max_tokens=num_out, ignore_eos=True),
        )
        for index, (num_in, num_out) in enumerate(lengths.tolist())
    ]


def _lengths(load: Load, rng: np.random.Generator) -> np.ndarray:
    """Tokens in and out of each request, [N, 2]."""
    if load.lengths is not None:
        return np.tile(np.array(load.lengths), (load.num_requests, 1))
    sigmas = np.array(_SHAREGPT_SIGMAS)
    centres = np.log(_SHAREGPT_MEANS) - sigmas**2 / 2  # the mean of a log-normal is exp(mu + sigma^2 / 2)
    drawn = np.exp(rng.normal(centres, sigmas, (load.num_requests, 2)))
    return np.clip(drawn, *_SHAREGPT_LIMITS).astype(int)
