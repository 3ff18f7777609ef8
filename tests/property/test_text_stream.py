"""Text that arrives token by token equals text decoded at once; stop strings do not depend on the cuts."""

from __future__ import annotations

from functools import cache

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime_fakes import CORPUS, byte_fallback_tokenizer, byte_level_tokenizer
from warploom.runtime.manifest import TokenizerInfo
from warploom.runtime.stop_strings import StopStrings
from warploom.runtime.tokenizer import Tokenizer

BUILDERS = {"byte level": byte_level_tokenizer, "byte fallback": byte_fallback_tokenizer}
TEXTS = st.text(max_size=40) | st.lists(st.sampled_from([*CORPUS, "👩‍🚀", " ", "  ", "é", "a"]), max_size=6).map(
    "".join
)


@cache
def pair(kind: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    """The library's tokenizer and ours."""
    theirs = BUILDERS[kind]()
    return theirs, Tokenizer(theirs.to_str(), TokenizerInfo("tokenizer.json"))


KINDS = pytest.mark.parametrize("kind", BUILDERS)


@KINDS
@given(text=TEXTS)
def test_real_text_decodes_as_the_library_decodes_it(kind: str, text: str) -> None:
    theirs, ours = pair(kind)
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(tokens) == theirs.decode(tokens)


@given(tokens=st.lists(st.integers(0, 339), max_size=40))
def test_any_byte_level_tokens_decode_as_the_library_decodes_them(tokens: list[int]) -> None:
    theirs, ours = pair("byte level")
    assert ours.decode(tokens) == theirs.decode(tokens)


@KINDS
@given(data=st.data())
def test_deltas_add_up_and_split_no_character(kind: str, data: st.DataObject) -> None:
    theirs, ours = pair(kind)
    random = st.lists(st.integers(0, theirs.get_vocab_size() - 1), max_size=40)
    tokens = data.draw(random | TEXTS.map(ours.encode))
    stream = ours.detokenizer()
    deltas = [stream.push([token]) for token in tokens] + [stream.finish()]
    whole = ours.decode(tokens)
    assert "".join(deltas) == whole
    assert "�" in whole or not any("�" in delta for delta in deltas)


@KINDS
@given(text=TEXTS, cut=st.integers(0, 60))
def test_output_continues_its_prompt(kind: str, text: str, cut: int) -> None:
    _, ours = pair(kind)
    tokens = ours.encode(text)
    prompt, output = tokens[:cut], tokens[cut:]
    before = ours.detokenizer()
    head = before.push(prompt)
    stream = ours.detokenizer(prompt)
    assert head + stream.push(output) + stream.finish() == ours.decode(tokens)


def test_leading_space_survives_after_a_prompt_and_only_then() -> None:
    theirs, ours = pair("byte fallback")
    prompt, output = ours.encode("once"), ours.encode("tic")
    assert [theirs.id_to_token(token) for token in output] == ["▁ti", "c"]
    assert ours.detokenizer(prompt).push(output) == " tic"
    assert ours.detokenizer([1]).push(output) == "tic"
    assert ours.detokenizer().push(output) == "tic"


def test_a_character_in_four_tokens_comes_whole() -> None:
    _, ours = pair("byte fallback")
    stream = ours.detokenizer([1])
    assert [stream.push([token]) for token in ours.encode("👩")[1:]] == ["", "", "", "👩"]


def test_special_tokens_have_no_text() -> None:
    _, ours = pair("byte level")
    assert ours.decode([1, *ours.encode("a"), 2, 10**6]) == "a"


LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4, unique=True)


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the first stop string to be complete, the longest of those."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_stop_strings_do_not_depend_on_the_cuts(pieces: list[str], stops: list[str]) -> None:
    stream, shown = StopStrings(stops), ""
    text, matched = first_stop("".join(pieces), stops)
    for piece in pieces:
        shown += stream.push(piece)
        assert text.startswith(shown)  # no part of a stop string was ever shown
        if stream.matched is not None:
            break
    else:
        shown += stream.finish()
    assert (shown, stream.matched) == (text, matched)


@given(early=LETTERS, late=LETTERS, stops=STOPS)
def test_only_stop_strings_that_end_late_count(early: str, late: str, stops: list[str]) -> None:
    stream = StopStrings(stops)
    shown = stream.push(early, active=False)
    assert stream.matched is None
    shown += stream.push(late) + stream.finish()
    if stream.matched is None:
        assert shown == early + late
    else:
        assert (early + late).startswith(shown + stream.matched)
        assert len(shown + stream.matched) > len(early)
