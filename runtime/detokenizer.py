"""Incremental detokenization: tokens in, text out as soon as it is certain, never half a character.

One push costs the bytes of the tokens pushed, whatever came before.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

# No UTF-8 character is longer, so no earlier byte of a prompt matters to what follows it.
_MAX_CHARACTER_BYTES = 4
_MAX_SILENT_TOKENS = 32  # of a prompt's end: if these have no text, what is in front of them is not looked at


class Detokenizer:
    """Decodes one text that grows.

    The deltas of `push` and the rest from `finish`, joined, are the decoding of all tokens at once. U+FFFD appears
    only for bytes that no later token can complete.

    Args:
        token_bytes: the bytes of a token id; empty for tokens without text.
        strip_start: how many leading spaces the text loses.
        prompt: the tokens in front of the text. Their text is not given, but what follows continues it: no
            leading space is lost after a prompt with text, and a character begun by the prompt is completed.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], strip_start: int, prompt: Sequence[int] = ()) -> None:
        self._token_bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        tail = b""
        for token in reversed(prompt[-_MAX_SILENT_TOKENS:]):
            if len(tail) >= _MAX_CHARACTER_BYTES:
                break
            tail = token_bytes(token) + tail
        self._strip = 0 if tail else strip_start
        self._decode(tail[-_MAX_CHARACTER_BYTES:])

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens complete."""
        text = self._decode(b"".join(map(self._token_bytes, token_ids)))
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
            else:
                self._strip -= 1
                text = text[1:]
        return text

    def finish(self) -> str:
        """Return what is left: U+FFFD if the last character was never completed."""
        return self._decode(b"", True)
