"""The log-probabilities of an answer in the shapes of the two endpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from warploom.runtime.request import TokenLogprobs
from warploom.runtime.server.replies import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)
from warploom.runtime.tokenizer import Tokenizer

_LEAST = -9999.0  # JSON has no -inf


class LogprobWriter:
    """Writes the log-probabilities of one answer, piece by piece.

    Args:
        as_ids: tokens are shown as `token_id:17`, whatever their text.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer, self._as_ids = tokenizer, as_ids
        self._offset = 0

    def completion(self, entries: Sequence[TokenLogprobs | int], with_top: bool = True) -> CompletionLogprobs:
        """Return the next tokens in the shape of `/v1/completions`.

        Args:
            entries: a bare id is a token without log-probability: the first one of an echoed prompt.
        """
        offsets, tokens = [], []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for entry in entries:
            token = entry if isinstance(entry, int) else entry.token_id
            tokens.append(self._shown(token))
            offsets.append(self._offset)
            self._offset += len(self._tokenizer.token_text(token))
            values.append(None if isinstance(entry, int) else chosen_logprob(entry))
            tops.append(None if isinstance(entry, int) else self._top(entry))
        return CompletionLogprobs(offsets, values, tokens, tops if with_top else None)

    def chat(self, entries: Sequence[TokenLogprobs]) -> ChatLogprobs:
        """Return the next tokens in the shape of `/v1/chat/completions`."""
        return ChatLogprobs(
            [
                ChatLogprob(
                    self._shown(entry.token_id),
                    chosen_logprob(entry),
                    self._bytes(entry.token_id),
                    [TopLogprob(self._shown(token), _finite(value), self._bytes(token)) for token, value in entry.top],
                )
                for entry in entries
            ]
        )

    def prompt(self, entries: Sequence[TokenLogprobs]) -> PromptLogprobs:
        """Return those of a prompt, from its second token on, in vLLM's shape."""
        return [None, *map(self._prompt_entry, entries)]

    def _prompt_entry(self, entry: TokenLogprobs) -> dict[int, PromptLogprob]:
        own = PromptLogprob(chosen_logprob(entry), None, self._shown(entry.token_id))
        ranked = enumerate(entry.top, 1)
        top = {token: PromptLogprob(_finite(value), rank, self._shown(token)) for rank, (token, value) in ranked}
        return {entry.token_id: own} | top

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens and the chosen one; of those that are shown alike, the likeliest."""
        top: dict[str, float] = {}
        for token, value in (*entry.top, (entry.token_id, chosen_logprob(entry))):
            top.setdefault(self._shown(token), _finite(value))
        return top

    def _shown(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._tokenizer.token_text(token)

    def _bytes(self, token: int) -> list[int]:
        return list(self._tokenizer.token_bytes(token) or self._tokenizer.token_text(token).encode())


def chosen_logprob(entry: TokenLogprobs) -> float:
    """Return the log-probability of the chosen token: the very number that the list of the likeliest has for it, so
    that clients may compare them exactly (lm-eval finds out so whether a token is the likeliest).
    """
    return _finite(dict(entry.top).get(entry.token_id, entry.logprob))


def _finite(value: float) -> float:
    return max(value, _LEAST) if math.isfinite(value) else _LEAST
