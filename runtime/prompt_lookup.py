"""Drafts without a model: what followed when the last tokens were seen before (prompt lookup decoding, Saxena 2023;
vLLM's and transformers' "ngram"). Free of charge where an answer repeats its prompt: summaries, edits, code, quotes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.request import Request

I32 = NDArray[np.int32]


def continuation(tokens: I32, longest: int, shortest: int, wanted: int) -> list[int]:
    """Return up to `wanted` tokens that followed an earlier occurrence of the last ones; [] if there is none.

    The longest match of at most `longest` tokens counts, if it is not below `shortest`; of several, the last one that
    is followed by `wanted` tokens, else the first.

    Args:
        tokens: [n], of the whole sequence.
    """
    ends = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1  # where what follows begins
    length = 1
    while length < longest and len(ends):
        deep = ends[ends > length]  # as many tokens before them
        longer = deep[tokens[deep - 1 - length] == tokens[-1 - length]] if len(deep) else deep
        if not len(longer):
            break
        ends, length = longer, length + 1
    if not len(ends) or length < shortest:
        return []
    roomy = ends[ends + wanted <= len(tokens)]
    begin = int(roomy[-1] if len(roomy) else ends[0])
    found: list[int] = tokens[begin : begin + wanted].tolist()
    return found


class PromptLookup:
    """Finds drafts for running requests; keeps their tokens as arrays."""

    def __init__(self, max_seqs: int, longest: int, shortest: int) -> None:
        self._longest, self._shortest = longest, shortest
        self._tokens: list[_Tokens | None] = [None] * max_seqs  # by row

    def can_draft(self, request: Request) -> bool:
        """Whether the tokens that the host knows have been seen before."""
        return bool(self._find(request, 1))

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """Return drafts for running requests, at most as many as wanted."""
        return [self._find(request, number) for request, number in wanted]

    def _find(self, request: Request, wanted: int) -> list[int]:
        row = request.row
        assert row is not None
        held = self._tokens[row]
        if held is None or held.request is not request:
            held = self._tokens[row] = _Tokens(request)
        return continuation(held.array(), self._longest, self._shortest, wanted)


class _Tokens:
    """A request's tokens as an array that grows with them."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._size = 0
        self._array: I32 = np.empty(0, np.int32)

    def array(self) -> I32:
        """All tokens so far, [n]."""
        tokens, size = self.request.token_ids, self._size
        if len(tokens) > len(self._array):
            grown = np.empty(2 * len(tokens), np.int32)
            grown[:size] = self._array[:size]
            self._array = grown
        self._array[size : len(tokens)] = tokens[size:]
        self._size = len(tokens)
        return self._array[: self._size]
