"""Texts that an output must not contain, as the token sequences that would write them."""

from __future__ import annotations

from collections.abc import Sequence

from warploom.runtime.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each word as a text begins with it, and as it follows a space."""
    num_bos = len(tokenizer.encode(""))
    sequences = [tokenizer.encode(text)[num_bos:] for word in words for text in (word, " " + word)]
    return [sequence for sequence in sequences if sequence]
