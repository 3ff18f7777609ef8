"""The sampler's inputs: one row of parameters per running request, gathered into the arrays of `@sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.guide import GuideError, Matcher
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import MAX_LOGIT_BIAS

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class SamplerInputs(NamedTuple):
    """The arrays of one `@sample` call, by the names of its arguments. R rows, H history and B bias columns
    and M words, all >= 1.
    """

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
    banned_bits: I32  # [R, M], bit t % 32 of word t // 32: token t is not chosen; M words that are there, 0 others


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

    def arrays(self, drafts: Sequence[int]) -> tuple[I32, I32]:
        """Return the distinct tokens and their occurrences in the output, [n] each, as if it went on with `drafts`."""
        size = len(self._index)
        tokens, counts = self._tokens[:size], self._counts[:size]
        if not drafts:
            return tokens, counts
        new = [token for token in dict.fromkeys(drafts) if token not in self._index]
        counts = np.concatenate([counts, np.zeros(len(new), np.int32)])
        for token in drafts:
            counts[self._index[token] if token in self._index else size + new.index(token)] += 1
        return np.concatenate([tokens, np.array(new, np.int32)]), counts


class _Bias:
    """What is added to a request's logits: its own bias; -inf on all end tokens while the output is short, and on
    what would end a bad word; and what its processors say.
    """

    def __init__(self, request: Request, vocab_size: int) -> None:
        params, self._vocab_size = request.params, vocab_size
        always = dict(params.logit_bias) | {word[0]: -inf for word in request.bad_words if len(word) == 1}
        self._late = _bias_arrays(always)
        self._early = _bias_arrays(always | dict.fromkeys(request.end_token_ids, -inf))
        self._request, self._always = request, always
        self._long_words = [word for word in request.bad_words if len(word) > 1]
        self.needs_tokens = bool(self._long_words or params.logits_processors)

    def arrays(self, num_output_tokens: int, drafts: Sequence[int]) -> tuple[I32, F32]:
        """Return tokens [n] and values [n] for the next token, if the output goes on with `drafts` until there."""
        is_early = num_output_tokens < self._request.params.min_tokens
        if not self.needs_tokens:
            return self._early if is_early else self._late
        request = self._request
        output = [*request.token_ids[request.num_prompt_tokens :], *drafts]
        bias = dict(self._always)
        for processor in request.params.logits_processors:
            for token, value in processor(request.token_ids[: request.num_prompt_tokens], output).items():
                bias[token] = bias.get(token, 0.0) + value
        if len(bias) > MAX_LOGIT_BIAS or not all(0 <= token < self._vocab_size for token in bias):
            raise ValueError(f"logits processors may change up to {MAX_LOGIT_BIAS} tokens of 0..{self._vocab_size - 1}")
        if not all(value <= _FORCE for value in bias.values()):  # nor is NaN
            raise ValueError(f"what logits processors add is a number of at most {_FORCE:g}, or -inf")
        bias |= {word[-1]: -inf for word in self._long_words if tuple(output[1 - len(word) :]) == word[:-1]}
        if is_early:
            bias |= dict.fromkeys(request.end_token_ids, -inf)
        return _bias_arrays(bias)


# The parameters that are one f32 per row, in the order of the table's rows, and their values for rows without any.
_FLOATS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_GREEDY = np.array([[0], [1], [0], [1], [0], [0]], np.float32)
_FORCE = 1e30  # more than any logit, and still finite when added to one
_NO_ROWS = np.empty(0, np.int32)
_PADDING = {"penalty_tokens": -1, "bias_tokens": -1}


class SamplerTable:
    """The sampling state of every running request, by its row.

    A request that is preempted and admitted again is written anew, from its tokens.

    Attributes:
        errors: what the logits processors or the guide of a row have raised; its next token means nothing then.
        needs_tokens: [max_seqs] whether sampling depends on the output so far: the host must know it then.
        num_top: [max_seqs] how many of the likeliest tokens are reported.
    """

    def __init__(self, max_seqs: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.errors: dict[int, Exception] = {}
        self.needs_tokens: NDArray[np.bool_] = np.zeros(max_seqs, np.bool_)
        self.num_top: I32 = np.zeros(max_seqs, np.int32)
        self._floats: F32 = np.zeros((len(_FLOATS), max_seqs), np.float32)
        self._top_k: I32 = np.zeros(max_seqs, np.int32)
        self._seeds: I32 = np.zeros((max_seqs, 2), np.int32)
        self._num_prompt_tokens: I32 = np.zeros(max_seqs, np.int32)
        self._histories: dict[int, _History] = {}  # by row
        self._biases: dict[int, _Bias] = {}
        self._guides: dict[int, Matcher] = {}
        self._allowed: dict[int, I32] = {}  # the bits of those that are not

    def admit(self, request: Request) -> None:
        """Write the row of a request that has just been given one."""
        row, params = request.row, request.params
        assert row is not None
        self._top_k[row] = params.top_k
        self._seeds[row] = np.array([request.seed], "<u8").view("<i4")
        self._num_prompt_tokens[row] = request.num_prompt_tokens
        self.num_top[row] = params.logprobs or 0
        self.forget(row)
        self._floats[:, row] = [getattr(params, name) for name in _FLOATS]
        if params.allowed_token_ids:
            self._allowed[row] = _bits_of_others(params.allowed_token_ids, self._vocab_size)
        if params.uses_penalties:
            self._histories[row] = _History(request)
        if params.logit_bias or params.min_tokens or request.bad_words or params.logits_processors:
            self._biases[row] = _Bias(request, self._vocab_size)
        if request.guide is not None:
            self._guides[row] = request.guide.matcher(request.token_ids[request.num_prompt_tokens :])
        is_late = row in self._biases and self._biases[row].needs_tokens
        self.needs_tokens[row] = params.uses_penalties or is_late or request.guide is not None

    def forget(self, row: int) -> None:
        """Let a row sample anything: its request has ended, or another one comes."""
        self.needs_tokens[row] = False
        self._floats[:, row] = _GREEDY[:, 0]
        for states in (self._histories, self._biases, self._guides, self._allowed):
            states.pop(row, None)

    @property
    def observes(self) -> bool:
        """Whether `observe` matters to some request."""
        return bool(self._histories or self._guides)

    def observe(self, request: Request, token: int) -> None:
        """Note that `token` was sampled for a running request."""
        assert request.row is not None
        history = self._histories.get(request.row)
        if history is not None:
            history.add(token, 1)
        matcher = self._guides.get(request.row)
        if matcher is not None:
            matcher.advance(token)

    def forced(self, request: Request) -> list[int]:
        """Return the tokens of a running request that come next because its guide allows no others."""
        assert request.row is not None
        matcher = self._guides.get(request.row)
        return matcher.forced() if matcher is not None else []

    def allowed(self, request: Request, drafts: list[int]) -> list[int]:
        """Return the first of a running request's drafts, as far as its guide allows them."""
        assert request.row is not None
        matcher = self._guides.get(request.row)
        if matcher is None:
            return drafts
        try:
            return drafts[: matcher.look_ahead(drafts)]
        except GuideError:  # `gather` will find it, too
            return []

    def gather(
        self, rows: I32, known: I32, drafts: Sequence[Sequence[int]] = (), forced: I32 = _NO_ROWS
    ) -> SamplerInputs:
        """Return the inputs of one `@sample` call.

        Args:
            rows: [N] of the requests that sample; one may sample several times, at consecutive positions.
            known: [N] how many tokens each has, with drafts.
            drafts: N times the last of the known tokens, as far as they are drafts. (): none are.
            forced: [F] tokens that the remaining rows of logits get, whatever the logits: for their log-probability.
        """
        drafts = drafts or [()] * len(rows)
        if len(forced):
            return self._gather_forced(rows, known, drafts, forced)
        floats = self._floats.take(rows, axis=1)
        tokens, counts, values = _neutral(len(rows))
        histories = self._gather_histories(rows, drafts) if self._histories else (tokens, counts)
        biases = self._gather_biases(rows, known, drafts) if self._biases else (tokens, values)
        return SamplerInputs(
            *_in_order(floats, self._top_k.take(rows)),
            self._seeds.take(rows, axis=0),
            known,
            *histories,
            *biases,
            self._gather_banned(rows, drafts) if self._guides or self._allowed else _no_bits(len(rows)),
        )

    def _gather_forced(self, rows: I32, known: I32, drafts: Sequence[Sequence[int]], forced: I32) -> SamplerInputs:
        num_rows, num_forced = len(rows), len(forced)
        plain = np.repeat(_GREEDY, num_forced, axis=1)
        tokens, counts, _ = _neutral(num_forced)
        alone = SamplerInputs(
            *_in_order(plain, np.zeros(num_forced, np.int32)),
            np.zeros((num_forced, 2), np.int32),
            np.zeros(num_forced, np.int32),
            tokens,
            counts,
            forced[:, None],
            np.full((num_forced, 1), _FORCE, np.float32),
            _no_bits(num_forced),
        )
        if not num_rows:
            return alone
        pairs = zip(SamplerInputs._fields, self.gather(rows, known, drafts), alone, strict=True)
        return SamplerInputs(*(_stacked(one, other, _PADDING.get(name, 0)) for name, one, other in pairs))

    def _gather_histories(self, rows: I32, drafts: Sequence[Sequence[int]]) -> tuple[I32, I32]:
        found = [(self._histories.get(row), after) for row, after in zip(rows.tolist(), drafts, strict=True)]
        pairs = [history.arrays(after) if history else _NOTHING for history, after in found]
        return _padded([tokens for tokens, _ in pairs], -1), _padded([counts for _, counts in pairs], 0)

    def _gather_biases(self, rows: I32, known: I32, drafts: Sequence[Sequence[int]]) -> tuple[I32, F32]:
        outputs = (known - self._num_prompt_tokens.take(rows)).tolist()
        pairs = [self._bias(*one) for one in zip(rows.tolist(), outputs, drafts, strict=True)]
        return _padded([tokens for tokens, _ in pairs], -1), _padded([values for _, values in pairs], 0)

    def _gather_banned(self, rows: I32, drafts: Sequence[Sequence[int]]) -> I32:
        return _padded([self._banned(row, len(after)) for row, after in zip(rows.tolist(), drafts, strict=True)], 0)

    def _banned(self, row: int, num_drafts: int) -> I32:
        matcher = self._guides.get(row)
        if matcher is None:
            return self._allowed.get(row, _NO_BITS)
        try:
            return matcher.banned_bits(num_drafts)
        except GuideError as error:
            self.errors[row] = error
            return _NO_BITS

    def _bias(self, row: int, num_output_tokens: int, drafts: Sequence[int]) -> tuple[I32, F32]:
        bias = self._biases.get(row)
        if bias is None:
            return _NO_BIAS
        try:
            return bias.arrays(num_output_tokens, drafts)
        except Exception as error:  # of a processor, which may raise anything
            self.errors[row] = error
            return _NO_BIAS


def _in_order(floats: F32, top_k: I32) -> tuple[F32, I32, F32, F32, F32, F32, F32]:
    """The first fields of `SamplerInputs`, from the table's rows [6, R] and `top_k` [R]."""
    temperature, top_p, min_p, repetition, presence, frequency = floats
    return temperature, top_k, top_p, min_p, repetition, presence, frequency


def _bias_arrays(bias: Mapping[int, float]) -> tuple[I32, F32]:
    return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)


def _stacked(one: NDArray[Any], other: NDArray[Any], fill: int) -> NDArray[Any]:
    """Return the rows of both, padded to the wider of the two."""
    if one.ndim == 1 or one.shape[1] == other.shape[1]:
        return np.concatenate([one, other])
    return _padded([*one, *other], fill)


_NOTHING: tuple[I32, I32] = (np.empty(0, np.int32), np.empty(0, np.int32))
_NO_BIAS = _bias_arrays({})
_NO_BITS: I32 = np.zeros(1, np.int32)


def _bits_of_others(allowed: Sequence[int], vocab_size: int) -> I32:
    """Return the words in which all tokens but these are banned."""
    banned = np.ones(-(-vocab_size // 32) * 32, np.uint8)
    banned[list(allowed)] = 0
    return np.packbits(banned, bitorder="little").view("<i4")


@lru_cache(maxsize=1024)
def _no_bits(num_rows: int) -> I32:
    """Return the words of rows whose tokens are all allowed, [num_rows, 1]."""
    return np.zeros((num_rows, 1), np.int32)


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
