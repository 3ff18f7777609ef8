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


def test_looking_ahead_changes_nothing() -> None:
    """Drafts that are not allowed, or that end the answer, are told; the end cannot be rolled back."""
    guide = compiler().compile(Guide("regex", "a[0-9]{1,3}"))
    a, one, two = map(ord, "a12")
    for drafts, right in [
        ([a, one, two], 3), ([a, AB, one], 1), ([one], 0), ([], 0), ([a, one, EOS], 2), ([a, EOS], 1),
        ([a, one, two, one, EOS, one], 3), ([a, one, two, one, one], 3),
    ]:  # fmt: skip
        matcher, plain = guide.matcher([]), guide.matcher([])
        assert matcher.look_ahead(drafts) == right
        assert matcher.look_ahead(drafts) == right
        for number, token in enumerate(drafts[: right + 1]):
            np.testing.assert_array_equal(matcher.banned_bits(number), plain.banned_bits())
            if number < right:
                plain.advance(token)
        other = guide.matcher([])
        for token in (a, one, two):
            np.testing.assert_array_equal(matcher.banned_bits(), other.banned_bits())
            matcher.advance(token)
            other.advance(token)
        assert allowed(matcher) == allowed(other)
