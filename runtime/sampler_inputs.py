"""The sampler's inputs: one row of parameters per running request, gathered into the arrays of `@sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.request import Request
from warploom.runtime.sampling_params import SamplingParams

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class SamplerInputs(NamedTuple):
    """The arrays of one `@sample` call, by the names of its arguments. R rows, H history and B bias columns >= 1."""

    temperature: F32  # [R], 0 = greedy
    top_k: I32  # [R], 0 = off
    top_p: F32  # [R], 1 = off
    min_p: F32  # [R], 0 = off
    repetition_penalty: F32  # [R], 1 = off
    presence_penalty: F32  # [R]
    frequency_penalty: F32  # [R]
    seeds: I32  # [R, 2], low word first
    sample_positions: I32  # [R], position of the token being sampled
    penalty_tokens: I32  # [R, H], distinct, -1 padded
    penalty_counts: I32  # [R, H], occurrences in the output
    bias_tokens: I32  # [R, B], distinct, -1 padded
    bias_values: F32  # [R, B]


class _History:
    """The distinct tokens of a request and how often each is in its output, kept up token by token."""

    def __init__(self, request: Request) -> None:
        self._index: dict[int, int] = {}
        self._tokens: I32 = np.empty(64, np.int32)
        self._counts: I32 = np.zeros(64, np.int32)
        for place, token in enumerate(request.token_ids):
            self.add(token, int(place >= request.num_prompt_tokens))

    def add(self, token: int, count: int) -> None:
        """Count `token` `count` more times (0: it is in the prompt)."""
        index = self._index.setdefault(token, len(self._index))
        if index == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, self._tokens])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[index] = token
        self._counts[index] += count

    @property
    def tokens(self) -> I32:
        """The distinct tokens, [n]."""
        return self._tokens[: len(self._index)]

    @property
    def counts(self) -> I32:
        """Their occurrences in the output, [n]."""
        return self._counts[: len(self._index)]


class _Bias:
    """What is added to a request's logits: its own bias, and while the output is short, -inf on all end tokens."""

    def __init__(self, params: SamplingParams, end_token_ids: frozenset[int]) -> None:
        banned = dict(params.logit_bias) | dict.fromkeys(end_token_ids, -inf)
        self._min_tokens = params.min_tokens
        self._early, self._late = _bias_arrays(banned), _bias_arrays(params.logit_bias)

    def arrays(self, num_output_tokens: int) -> tuple[I32, F32]:
        """Return tokens [n] and values [n] for the next token."""
        return self._early if num_output_tokens < self._min_tokens else self._late


# The parameters that are one f32 per row, in the order of the table's rows.
_FLOATS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


class SamplerTable:
    """The sampling state of every running request, by its row.

    A request that is preempted and admitted again is written anew, from its tokens.
    """

    def __init__(self, max_seqs: int) -> None:
        self._floats: F32 = np.zeros((len(_FLOATS), max_seqs), np.float32)
        self._top_k: I32 = np.zeros(max_seqs, np.int32)
        self._seeds: I32 = np.zeros((max_seqs, 2), np.int32)
        self._histories: list[_History | None] = [None] * max_seqs
        self._biases: list[_Bias | None] = [None] * max_seqs

    def admit(self, request: Request) -> None:
        """Write the row of a request that has just been given one."""
        row, params = request.row, request.params
        assert row is not None
        self._floats[:, row] = [getattr(params, name) for name in _FLOATS]
        self._top_k[row] = params.top_k
        self._seeds[row] = np.array([request.seed], "<u8").view("<i4")
        self._histories[row] = _History(request) if params.uses_penalties else None
        biased = params.logit_bias or params.min_tokens
        self._biases[row] = _Bias(params, request.end_token_ids) if biased else None

    def observe(self, row: int, token: int) -> None:
        """Note that `token` was sampled for the request in `row`."""
        history = self._histories[row]
        if history is not None:
            history.add(token, 1)

    def gather(self, requests: Sequence[Request], rows: I32) -> SamplerInputs:
        """Return the inputs of one `@sample` call for `requests`, which sit in `rows` [R]."""
        floats = dict(zip(_FLOATS, self._floats.take(rows, axis=1), strict=True))
        penalty_tokens, penalty_counts = self._gather_histories(rows)
        bias_tokens, bias_values = self._gather_biases(requests, rows)
        return SamplerInputs(
            **floats,
            top_k=self._top_k.take(rows),
            seeds=self._seeds.take(rows, axis=0),
            sample_positions=np.array([len(request.token_ids) for request in requests], np.int32),
            penalty_tokens=penalty_tokens,
            penalty_counts=penalty_counts,
            bias_tokens=bias_tokens,
            bias_values=bias_values,
        )

    def _gather_histories(self, rows: I32) -> tuple[I32, I32]:
        histories = [self._histories[row] for row in rows.tolist()]
        if not any(histories):
            tokens, counts, _ = _neutral(len(histories))
            return tokens, counts
        pairs = [(history.tokens, history.counts) if history else _NOTHING for history in histories]
        return _padded([tokens for tokens, _ in pairs], -1), _padded([counts for _, counts in pairs], 0)

    def _gather_biases(self, requests: Sequence[Request], rows: I32) -> tuple[I32, F32]:
        biases = [self._biases[row] for row in rows.tolist()]
        if not any(biases):
            tokens, _, values = _neutral(len(biases))
            return tokens, values
        pairs = [
            bias.arrays(request.num_output_tokens) if bias else _NO_BIAS
            for bias, request in zip(biases, requests, strict=True)
        ]
        return _padded([tokens for tokens, _ in pairs], -1), _padded([values for _, values in pairs], 0)


def _bias_arrays(bias: Mapping[int, float]) -> tuple[I32, F32]:
    return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)


_NOTHING: tuple[I32, I32] = (np.empty(0, np.int32), np.empty(0, np.int32))
_NO_BIAS = _bias_arrays({})


@lru_cache(maxsize=1024)
def _neutral(num_rows: int) -> tuple[I32, I32, F32]:
    """Return the tokens, counts and values of rows without history or bias, each [num_rows, 1]."""
    shape = (num_rows, 1)
    return np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)


_Number = TypeVar("_Number", np.int32, np.float32)


def _padded(rows: list[NDArray[_Number]], fill: int) -> NDArray[_Number]:
    """Return the ragged rows as one array [R, longest row (at least 1)]."""
    padded = np.full((len(rows), max(1, *map(len, rows))), fill, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
