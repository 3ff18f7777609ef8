"""What guides allow, token by token, on a vocabulary of bytes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from warploom.errors import InvalidRequestError
from warploom.runtime.guide import Guide, GuideCompiler, GuideError, Matcher

EOS, AB = 256, 258


def compiler(vocab_size: int = 320, eos: tuple[int, ...] = (EOS, EOS + 1)) -> GuideCompiler:
    """Bytes, two end tokens, "ab", and ids that are no token."""
    tokens = {**{i: bytes([i]) for i in range(256)}, AB: b"ab"}
    return GuideCompiler(vocab_size, lambda token: tokens.get(token, b""), eos)


def allowed(matcher: Matcher, vocab_size: int = 320) -> set[int]:
    words = matcher.banned_bits()
    assert words.dtype == np.int32
    assert words.shape == (-(-vocab_size // 32),)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:vocab_size]
    return set(np.flatnonzero(bits == 0).tolist())


@pytest.mark.parametrize("vocab_size", [259, 288, 319, 320, 321])
def test_only_what_fits_is_allowed(vocab_size: int) -> None:
    matcher = compiler(vocab_size).compile(Guide("regex", "abc?")).matcher([])
    assert allowed(matcher, vocab_size) == {AB}, "what is forced is written with the longest tokens"
    matcher.advance(AB)
    assert allowed(matcher, vocab_size) == {ord("c"), EOS, EOS + 1}
    matcher.advance(ord("c"))
    assert allowed(matcher, vocab_size) == {EOS, EOS + 1}


def test_a_matcher_goes_on_from_an_output() -> None:
    compiled = compiler().compile(Guide("choice", choices=("abab", 'ab "c"\n')))
    first, second = compiled.matcher([]), compiled.matcher([AB])
    assert allowed(second) == {ord("a"), AB, ord(" ")}
    assert allowed(first) == {AB}, "they are apart"


def test_what_is_not_allowed_is_told() -> None:
    matcher = compiler().compile(Guide("regex", "a+")).matcher([ord("a")])
    matcher.advance(ord("b"))
    with pytest.raises(GuideError, match="cannot go on"):
        matcher.banned_bits()


def test_guides_are_compiled_once() -> None:
    guides = compiler()
    assert guides.compile(Guide("regex", "a+")) is guides.compile(Guide("regex", "a+"))
    first = guides.compile(Guide("regex", "b"))
    for number in range(100):
        guides.compile(Guide("regex", f"a{{{number + 1}}}"))
    assert guides.compile(Guide("regex", "b")) is not first, "not for ever"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="end token"):
        compiler(eos=()).compile(Guide("regex", "a"))
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidRequestError, match=r"warploom\[serve\]"):
        compiler().compile(Guide("regex", "a"))
