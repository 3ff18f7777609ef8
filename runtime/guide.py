"""Guided decoding: the form that an answer must have, compiled by llguidance to what may come next.

A guide is compiled when its request is made, which takes milliseconds and is bounded by llguidance's own limits; the
result is shared by all requests with the same guide. Each running request has a matcher of its own, which says before
every token what is banned and is told what was sampled.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from warploom.errors import EngineError, InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

GuideKind: TypeAlias = Literal["json_schema", "json_object", "regex", "grammar", "choice"]
MAX_GUIDE_BYTES = 64 << 10
MAX_CHOICES = 1024
STUCK = "The answer cannot go on as its guide says"
_MAX_COMPILED = 64
# JSON may be written with spaces, but not with so many that an answer is made of them.
_JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,16}"}


class GuideError(EngineError):
    """What a request has sampled cannot be what its guide allows."""


@dataclass(frozen=True, slots=True)
class Guide:
    """The form of an answer.

    Attributes:
        kind: what the others are.
        text: a JSON schema, a regular expression (Rust's syntax, of the whole answer) or a Lark grammar as llguidance
            takes it; "" for the other kinds.
        choices: the possible answers, of the kind "choice".

    Raises:
        InvalidRequestError: on construction, if it is empty or too large. Whether it can be compiled is seen when the
            request is made.
    """

    kind: GuideKind
    text: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _GRAMMARS:
            raise _invalid(f"one of the kinds {', '.join(_GRAMMARS)}", repr(self.kind)[:50])
        object.__setattr__(self, "choices", tuple(self.choices))
        texts = self.choices if self.kind == "choice" else (self.text,)
        if self.kind != "json_object" and not all(isinstance(text, str) and text for text in texts or ("",)):
            raise _invalid(f"a text that is not empty for the kind {self.kind}", repr(texts)[:200])
        size = sum(len(text.encode(errors="replace")) for text in texts)
        if size > MAX_GUIDE_BYTES or len(texts) > MAX_CHOICES:
            raise _invalid(f"at most {MAX_GUIDE_BYTES} bytes and {MAX_CHOICES} choices", f"{size} bytes, {len(texts)}")


class Matcher:
    """Where one answer is in its guide.

    Args:
        start: a matcher of an answer that has not begun.
        num_words: of what is banned, ceil(vocab_size / 32).
        output: the tokens that the answer begins with.
    """

    def __init__(self, start: LLMatcher, num_words: int, output: Sequence[int]) -> None:
        self._start, self._num_words, self._output = start, num_words, list(output)
        self._ahead: list[NDArray[np.int32]] = []  # banned after so many drafts
        self._matcher = self._replayed()

    def advance(self, token: int) -> None:
        """Note that `token` was sampled. One that is not allowed is told by `banned_bits`."""
        self._output.append(token)
        self._ahead.clear()
        self._matcher.consume_token(token)

    def forced(self) -> list[int]:
        """Return the tokens that come next because nothing else may; [] where there is a choice."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def look_ahead(self, drafts: Sequence[int]) -> int:
        """Return how many of the tokens that may come next are allowed to; `banned_bits` then knows what may follow.

        The one that ends the answer is not among them: nothing follows it. Nothing else changes, also where the guide
        fails behind a draft.

        Raises:
            GuideError: see `banned_bits`.
        """
        self._ahead = [self._banned_bits()]
        for draft in drafts:
            if self._ahead[-1][draft // 32] >> (draft % 32) & 1 or not self._matcher.consume_token(draft):
                break
            try:
                if not self._matcher.is_stopped():
                    self._ahead.append(self._banned_bits())
                    continue
            except GuideError:
                pass
            self._matcher = self._replayed()  # it cannot be rolled back
            return len(self._ahead) - 1
        self._matcher.rollback(len(self._ahead) - 1)
        return len(self._ahead) - 1

    def banned_bits(self, num_drafts: int = 0) -> NDArray[np.int32]:
        """Return what may not come next, [num_words]: see `@sample`.

        Args:
            num_drafts: next after so many of the drafts of `look_ahead`.

        Raises:
            GuideError: a token was sampled that is not allowed, or the guide has become too complex.
        """
        return self._ahead[num_drafts] if self._ahead else self._banned_bits()

    def _replayed(self) -> LLMatcher:
        matcher = self._start.deep_copy()
        matcher.consume_tokens(self._output)
        return matcher

    def _banned_bits(self) -> NDArray[np.int32]:
        allowed = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        if self._matcher.is_error():
            raise GuideError(STUCK, found=self._matcher.get_error()[:300])
        return ~allowed[: self._num_words]  # there may be a word more


class CompiledGuide:
    """A guide that has been understood; makes the matchers of answers."""

    def __init__(self, start: LLMatcher, num_words: int) -> None:
        self._start, self._num_words = start, num_words

    def matcher(self, output: Sequence[int]) -> Matcher:
        """Return a matcher of an answer that begins with the tokens `output`."""
        return Matcher(self._start, self._num_words, output)


class GuideCompiler:
    """Compiles guides for one vocabulary; any thread may ask.

    Args:
        token_bytes: of a token id; empty for those that are no text.
        eos_token_ids: what ends an answer that is complete.
    """

    def __init__(self, vocab_size: int, token_bytes: Callable[[int], bytes], eos_token_ids: Sequence[int]) -> None:
        self._vocab_size, self._token_bytes, self._eos_token_ids = vocab_size, token_bytes, list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Guide, CompiledGuide] = OrderedDict()
        self._lock = Lock()

    def compile(self, guide: Guide) -> CompiledGuide:
        """Compile a guide, or find it among the last ones.

        Raises:
            InvalidRequestError: it is malformed, contradicts itself or is too complex; llguidance is not installed;
                the model has no end token.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            if found := self._compiled.get(guide):
                self._compiled.move_to_end(guide)
                return found
        compiled = CompiledGuide(_start(guide, self._tokenizer), -(-self._vocab_size // 32))
        with self._lock:
            self._compiled[guide] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return compiled

    def _make_tokenizer(self) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError as error:
            raise InvalidRequestError(
                "Guided decoding needs the package llguidance", fix="pip install 'warploom[serve]'"
            ) from error
        if not self._eos_token_ids:
            raise InvalidRequestError("Guided decoding needs a model with an end token", found="none")
        vocabulary = _Vocabulary([self._token_bytes(token) for token in range(self._vocab_size)], self._eos_token_ids)
        vocabulary.tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=self._eos_token_ids)
        return vocabulary.tokenizer


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokens: list[bytes], eos_token_ids: list[int]) -> None:
        self.tokens = tokens
        self.eos_token_id, self.bos_token_id, self.special_token_ids = eos_token_ids[0], None, eos_token_ids
        self.tokenizer: LLTokenizer | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of a text that is forced. Any will do: how the model would write it is not asked."""
        return [] if self.tokenizer is None else self.tokenizer.greedy_tokenize(text.decode())


def _start(guide: Guide, tokenizer: LLTokenizer) -> LLMatcher:
    """Return the matcher of an answer that has not begun; InvalidRequestError if there is none."""
    from llguidance import LLMatcher, LLParserLimits

    try:
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(tokenizer, _GRAMMARS[guide.kind](guide), log_level=0, limits=limits)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"a {guide.kind} that can be compiled", str(error)[:500]) from error
    if not matcher.is_error():
        matcher.compute_bitmask()  # where a form that is too complex is found out
    if matcher.is_error():
        raise _invalid(f"a {guide.kind} that can be compiled", matcher.get_error()[:500])
    return matcher


def _json_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    parsed = json.loads(schema)  # whose errors say more
    whole = parsed if isinstance(parsed, dict) else {"allOf": [parsed]}  # true is a schema, too
    return LLMatcher.grammar_from_json_schema(whole, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]


def _regex_grammar(regex: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(regex)


def _lark_grammar(grammar: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(grammar)


_GRAMMARS: dict[GuideKind, Callable[[Guide], str]] = {
    "json_schema": lambda guide: _json_grammar(guide.text),
    "json_object": lambda guide: _json_grammar('{"type": "object"}'),
    "regex": lambda guide: _regex_grammar(guide.text),
    "grammar": lambda guide: _lark_grammar(guide.text),
    "choice": lambda guide: _lark_grammar("start: " + " | ".join(map(json.dumps, guide.choices))),
}


def _invalid(expected: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(
        "The sampling parameter guide is not valid", expected=expected, found=found, param="guide"
    )
