"""Text to tokens and back, from the files of an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers

from warploom.errors import ArtifactError, InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.chat_template import ChatTemplate, Message
from warploom.runtime.detokenizer import Detokenizer
from warploom.runtime.manifest import TokenizerInfo
from warploom.runtime.token_bytes import token_decoder

# Tokens that say what a part of an answer is. They are text although some models mark them as special.
_STRUCTURE = {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"}


class Tokenizer:
    """Encodes prompts and conversations, decodes outputs.

    Args:
        text: the content of a `tokenizer.json`.
        info: the tokenizer's facts from the manifest.
        chat_template: the Jinja text, or None if the model has none.

    Raises:
        ArtifactError: a file is malformed, or the tokenizer's decoder is not supported.
    """

    def __init__(self, text: str, info: TokenizerInfo, chat_template: str | None = None) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            decoder = token_decoder(json.loads(text).get("decoder"))
        except ArtifactError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError("The tokenizer is malformed", found=str(error)) from error
        self._info, self._chat_template_text = info, chat_template
        self._to_bytes, self._strip_start = decoder.to_bytes, decoder.strip_start
        added_tokens = self._tokenizer.get_added_tokens_decoder().items()
        self._special = {token for token, one in added_tokens if one.special and one.content not in _STRUCTURE}
        self._bytes: dict[int, bytes] = {}
        self._bos = self._find_bos() if info.add_bos else []

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Tokenizer:
        """Read the tokenizer of an artifact."""
        info = artifact.manifest.tokenizer
        template = artifact.read_text(info.chat_template) if info.chat_template else None
        return cls(artifact.read_text(info.file), info, template)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a plain prompt, with the BOS token in front if the model wants it and `text` does
        not already begin with it.

        Raises:
            InvalidRequestError: `text` holds lone surrogates.
        """
        tokens = self._encode(text)
        return tokens if tokens[: len(self._bos)] == self._bos else self._bos + tokens

    def encode_prompt(self, prompt: str | Iterable[int]) -> list[int]:
        """Return the tokens of a text, or the given ones as they are; InvalidRequestError if it is neither."""
        if isinstance(prompt, str):
            return self.encode(prompt)
        if isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable):
            raise InvalidRequestError(
                "A prompt is neither text nor tokens",
                expected="a str, or a list of token ids",
                found=f"{type(prompt).__name__} {prompt!r}"[:200],
            )
        return list(np.atleast_1d(prompt).tolist() if isinstance(prompt, np.ndarray) else prompt)

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> list[int]:
        """Return the tokens of a conversation, ending where the assistant's answer begins; see `ChatTemplate.render`.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses the messages.
        """
        if self._template is None:
            raise InvalidRequestError(
                "This model has no chat template", fix="use a chat model, or give a plain prompt to `generate`"
            )
        return self._encode(self._template.render(messages, **variables))

    def decode(self, token_ids: Sequence[int], *, with_special: bool = False) -> str:
        """Return the text of these tokens; special ones are left out, or shown by their names."""
        detokenizer = self.detokenizer(with_special=with_special)
        return detokenizer.push(token_ids) + detokenizer.finish()

    def detokenizer(self, prompt: Sequence[int] = (), *, with_special: bool = False) -> Detokenizer:
        """Return an incremental decoder of what follows `prompt`; see `decode`."""
        return Detokenizer(self._shown_bytes if with_special else self.token_bytes, self._strip_start, prompt)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token; empty for special tokens and for ids without a token."""
        if token not in self._bytes:
            text = None if token in self._special else self._tokenizer.id_to_token(token)
            self._bytes[token] = self._to_bytes(text) if text else b""
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        """Return how one token is shown: its text, the name of a special token, `bytes:\\x..` for a part of a
        character (as OpenAI's API shows it), or nothing for an id without a token.
        """
        data = self.token_bytes(token)
        if not data:
            return self._tokenizer.id_to_token(token) or ""
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    @property
    def chat_template_text(self) -> str:
        """The text of the chat template; empty if there is none."""
        return self._chat_template_text or ""

    @cached_property
    def max_token_chars(self) -> int:
        """Most characters of one token, so that a text's least number of tokens is known before it is encoded."""
        return max(map(len, self._tokenizer.get_vocab()))

    @cached_property
    def _template(self) -> ChatTemplate | None:
        if self._chat_template_text is None:
            return None
        named = {"bos_token": self._info.bos_token, "eos_token": self._info.eos_token}
        return ChatTemplate(self._chat_template_text, {name: text or "" for name, text in named.items()})

    def _shown_bytes(self, token: int) -> bytes:
        return self.token_bytes(token) or self.token_text(token).encode()

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                "The prompt is not valid Unicode text",
                expected="no lone surrogates (they come from reading invalid UTF-8)",
                found=f"{text[error.start]!r} at character {error.start}",
            ) from error
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _find_bos(self) -> list[int]:
        token = self._tokenizer.token_to_id(self._info.bos_token or "")
        if token is None:
            raise ArtifactError(
                "The manifest asks for a BOS token that the tokenizer lacks", found=repr(self._info.bos_token)
            )
        return [token]
