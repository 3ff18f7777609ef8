"""Tokenizers from GGUF metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.unit.frontend.tiny_checkpoints import CHAT_TEMPLATE, GGUFContents, tiny_tokenizer
from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_file import read_gguf_file
from warploom.frontend.gguf_pre_tokenizers import PRE_TOKENIZERS
from warploom.frontend.gguf_tokenizer import tokenizer_from_gguf
from warploom.frontend.tokenizer import TokenizerFiles

ReadTokenizer = Callable[[GGUFContents], TokenizerFiles]


@pytest.fixture
def read_tokenizer(write_gguf: Callable[[GGUFContents], Path]) -> ReadTokenizer:
    return lambda contents: tokenizer_from_gguf(read_gguf_file(write_gguf(contents)))


def pieces(files: TokenizerFiles, text: str) -> list[str]:
    tokens: list[str] = Tokenizer.from_str(files.tokenizer_json).encode(text, add_special_tokens=False).tokens
    return tokens


TEXTS = (
    "hello hello  hellohello\n\n hello ",
    "<|im_start|>hello<|im_end|>\n<|im_start",
    "naïve 日本語 😀\u200d\u0301",
    "\t\r\n  \u00a0 x",
    "I'm he'LL they've",
    "\x00\x7f",
    "",
)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_bpe_encodes_like_the_models_own_tokenizer(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, text: str
) -> None:
    gguf_contents.metadata["tokenizer.ggml.pre"] = "gpt-2"
    ours, original = Tokenizer.from_str(read_tokenizer(gguf_contents).tokenizer_json), tiny_tokenizer()
    ids = ours.encode(text).ids
    assert ids == original.encode(text).ids
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_facts_beside_the_vocabulary(read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents) -> None:
    files = read_tokenizer(gguf_contents)
    assert files.chat_template == CHAT_TEMPLATE
    assert (files.bos_token, files.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert not files.add_bos
    assert files.eos_token_ids == (2, 0)  # <|im_end|> by key, <|endoftext|> because it is a control token


def test_end_of_turn_keys_end_a_generation(read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata |= {"tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 8}
    assert read_tokenizer(gguf_contents).eos_token_ids == (2, 9, 8, 0)


def test_add_bos_is_what_encoding_does(read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata["tokenizer.ggml.add_bos_token"] = True
    files = read_tokenizer(gguf_contents)
    assert files.add_bos
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("hello").tokens == ["<|im_start|>", "hello"]
    assert tokenizer.encode("hello", add_special_tokens=False).tokens == ["hello"]


@pytest.mark.parametrize(("pre", "add_bos"), [("llama-bpe", True), ("smollm", False)])
def test_add_bos_follows_the_family_when_the_file_is_silent(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, pre: str, add_bos: bool
) -> None:
    gguf_contents.metadata["tokenizer.ggml.pre"] = pre
    del gguf_contents.metadata["tokenizer.ggml.add_bos_token"]
    assert read_tokenizer(gguf_contents).add_bos is add_bos


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "a 1234", ["a", " 1234"]),
        ("smollm", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "a 1234", ["a", " ", "123", "4"]),
        ("qwen2", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("default", "a 1234", ["a", " ", "123", "4"]),
        ("gpt-2", "I'LL x", ["I", "'", "LL", " x"]),
        ("llama-bpe", "I'LL x", ["I", "'LL", " x"]),
        ("llama-bpe", "a\n\n b", ["a", "\n\n", " b"]),
        ("gpt-2", "a\n\n b", ["a", "\n\n", " b"]),
        ("tekken", "helloWorld 12", ["hello", "World", " ", "1", "2"]),
        ("llama-bpe", "helloWorld 12", ["helloWorld", " ", "12"]),
        ("deepseek-coder", "a\n b 1", ["a", "\n", " b", " ", "1"]),
        ("gpt-4o", "helloWorld's 1234", ["hello", "World's", " ", "123", "4"]),
        ("gpt-4o", "a/\n b", ["a", "/\n", " b"]),
        ("deepseek-v3", "ab 1234 日本x .py", ["ab", " ", "123", "4", " ", "日本", "x", " .", "py"]),
        ("deepseek-v3", "(word) é", ["(word", ")", " é"]),
        ("glm4", "I'LL 1234", ["I", "'LL", " ", "123", "4"]),
        ("stablelm2", "a 12", ["a", " ", "1", "2"]),
        ("seed-coder", "a!\n\nb", ["a", "!", "\n\n", "b"]),
        ("bloom", "hello, world 12。ok", ["hello", ",", " world", " 12", "。", "ok"]),
    ],
)
def test_pre_tokenizers_cut_where_their_models_cut(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, pre: str, text: str, expected: list[str]
) -> None:
    gguf_contents.metadata["tokenizer.ggml.pre"] = pre
    tokenizer = Tokenizer.from_str(read_tokenizer(gguf_contents).tokenizer_json)
    spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert [text[begin:end] for begin, end in spans] == expected


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_loses_nothing(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, pre: str
) -> None:
    gguf_contents.metadata["tokenizer.ggml.pre"] = pre
    tokenizer = Tokenizer.from_str(read_tokenizer(gguf_contents).tokenizer_json)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids[tokenizer.num_special_tokens_to_add(False) :]) in (
            text,
            text.replace("<|im_start|>", "").replace("<|im_end|>", ""),
        )


def test_user_defined_tokens_are_matched_but_kept_on_decoding(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents
) -> None:
    gguf_contents.metadata["tokenizer.ggml.tokens"] += ["<tool>"]
    gguf_contents.metadata["tokenizer.ggml.token_type"] += [4]
    tokenizer = Tokenizer.from_str(read_tokenizer(gguf_contents).tokenizer_json)
    ids = tokenizer.encode("hello<tool><|im_end|>").ids
    assert tokenizer.encode("hello<tool><|im_end|>").tokens == ["hello", "<tool>", "<|im_end|>"]
    assert tokenizer.decode(ids) == "hello<tool>"


class TestSentencePiece:
    """The "llama" tokenizer: SentencePiece BPE with byte fallback, as in Llama 2."""

    @pytest.fixture
    def contents(self, gguf_contents: GGUFContents) -> GGUFContents:
        specials = ["<unk>", "<s>", "</s>"]
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        words = ["▁h", "el", "lo", "ello", "▁hello", "▁▁", "h", "e", "l", "o", "▁", "a", "b", "ab", "bb"]
        gguf_contents.metadata = {
            key: value for key, value in gguf_contents.metadata.items() if not key.startswith("tokenizer.")
        } | {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": specials + byte_tokens + words,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
            "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(words))],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
        return gguf_contents

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("hello", ["▁hello"]),
            ("hello hello", ["▁hello", "▁hello"]),
            ("hello  hello", ["▁hello", "▁", "▁hello"]),
            ("  hello", ["▁▁", "▁hello"]),
            ("abb", ["▁", "ab", "b"]),  # "ab" scores above "bb"
            ("a\n", ["▁", "a", "<0x0A>"]),
            ("é", ["▁", "<0xC3>", "<0xA9>"]),
            ("<s>hello</s>", ["<s>", "▁hello", "</s>"]),
        ],
    )
    def test_pieces(
        self, read_tokenizer: ReadTokenizer, contents: GGUFContents, text: str, expected: list[str]
    ) -> None:
        assert pieces(read_tokenizer(contents), text) == expected

    @pytest.mark.parametrize("text", ["hello", " hello", "ab  hello é\n😀", "<0x0A>"])
    def test_decoding_gives_the_text_back(
        self, read_tokenizer: ReadTokenizer, contents: GGUFContents, text: str
    ) -> None:
        tokenizer = Tokenizer.from_str(read_tokenizer(contents).tokenizer_json)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text

    def test_begins_with_bos_unless_the_file_says_otherwise(
        self, read_tokenizer: ReadTokenizer, contents: GGUFContents
    ) -> None:
        assert read_tokenizer(contents).add_bos
        contents.metadata["tokenizer.ggml.add_bos_token"] = False
        assert not read_tokenizer(contents).add_bos

    def test_without_a_space_prefix(self, read_tokenizer: ReadTokenizer, contents: GGUFContents) -> None:
        contents.metadata["tokenizer.ggml.add_space_prefix"] = False
        files = read_tokenizer(contents)
        assert pieces(files, "hello") == ["h", "ello"]
        assert pieces(files, " hello") == ["▁hello"]

    def test_scores_are_needed(self, read_tokenizer: ReadTokenizer, contents: GGUFContents) -> None:
        del contents.metadata["tokenizer.ggml.scores"]
        with pytest.raises(CheckpointError, match="lacks metadata"):
            read_tokenizer(contents)


@pytest.mark.parametrize(("key", "value"), [("model", "bert"), ("pre", "klingon")])
def test_unknown_kinds_are_refused(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, key: str, value: str
) -> None:
    gguf_contents.metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(UnsupportedModelError) as caught:
        read_tokenizer(gguf_contents)
    assert caught.value.found == repr(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merges", ["he llo x"]),
        ("merges", ["zz yy"]),
        ("merges", [1, 2]),
        ("tokens", [1, 2]),
        ("token_type", [1, 2]),
        ("bos_token_id", 10_000),
        ("eos_token_id", "x"),
        ("add_bos_token", "yes"),
    ],
)
def test_malformed_parts_are_named(
    read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents, key: str, value: Any
) -> None:
    gguf_contents.metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(CheckpointError, match=rf"tokenizer\.ggml\.{key}"):
        read_tokenizer(gguf_contents)


def test_end_of_sequence_outside_the_vocabulary(read_tokenizer: ReadTokenizer, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata["tokenizer.ggml.eot_token_id"] = 10_000
    with pytest.raises(CheckpointError, match="eot_token_id"):
        read_tokenizer(gguf_contents)
