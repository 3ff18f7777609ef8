"""Tokenizers of Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.unit.frontend.tiny_checkpoints import CHAT_TEMPLATE, MERGES, byte_level_tokens, tiny_config, tiny_tokenizer
from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.tokenizer import TokenizerFiles, tokenizer_from_folder


def read(folder: Path, generation: dict[str, Any] | None = None) -> TokenizerFiles:
    return tokenizer_from_folder(folder, tiny_config(), generation or {})


def configure(folder: Path, **settings: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tokenizer_with_bos() -> Tokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    return tokenizer


def test_facts_beside_the_vocabulary(hf_folder: Path) -> None:
    files = read(hf_folder)
    assert Tokenizer.from_str(files.tokenizer_json).encode("hello hello").tokens == ["hello", "Ġhello"]
    assert (files.bos_token, files.eos_token, files.chat_template) == ("<|im_start|>", "<|im_end|>", CHAT_TEMPLATE)
    assert not files.add_bos


def test_every_end_id_counts_once_the_main_one_first(hf_folder: Path) -> None:
    assert read(hf_folder).eos_token_ids == (2,)
    assert read(hf_folder, {"eos_token_id": [5, 2]}).eos_token_ids == (5, 2)
    assert read(hf_folder, {"eos_token_id": 5}).eos_token_ids == (5, 2)
    configure(hf_folder, eos_token="<|endoftext|>")
    assert read(hf_folder, {"eos_token_id": 5}).eos_token_ids == (5, 2, 0)


def test_no_token_is_minus_one_and_ids_beyond_all_vocabularies_are_refused(hf_folder: Path) -> None:
    assert read(hf_folder, {"eos_token_id": [-1, 5]}).eos_token_ids == (5, 2)
    assert read(hf_folder, {"eos_token_id": True}).eos_token_ids == (2,)
    (hf_folder / "tokenizer_config.json").unlink()
    files = tokenizer_from_folder(hf_folder, tiny_config() | {"bos_token_id": -1, "eos_token_id": -1}, {})
    assert (files.bos_token, files.eos_token, files.eos_token_ids) == (None, None, ())
    for where in ("bos_token_id", "eos_token_id"):
        with pytest.raises(CheckpointError, match=r"no vocabulary has(.|\n)*10000000000"):
            tokenizer_from_folder(hf_folder, tiny_config() | {where: 10**10}, {})


def test_malformed_templates_are_none_or_named(hf_folder: Path) -> None:
    malformed: list[Any] = [[{}], [5], [{"name": "default"}], [{"name": "tool_use", "template": "a"}]]
    for templates in malformed:
        configure(hf_folder, chat_template=templates)
        assert read(hf_folder).chat_template is None
    (hf_folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        read(hf_folder)


def test_special_tokens_from_the_config_when_nothing_else_names_them(hf_folder: Path) -> None:
    (hf_folder / "tokenizer_config.json").unlink()
    files = read(hf_folder)
    assert (files.bos_token, files.eos_token, files.chat_template) == ("<|im_start|>", "<|im_end|>", None)


def test_special_tokens_map_is_read(hf_folder: Path) -> None:
    (hf_folder / "tokenizer_config.json").unlink()
    (hf_folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|endoftext|>"}}))
    assert read(hf_folder).bos_token == "<|endoftext|>"


def test_template_file_wins_over_the_config(hf_folder: Path) -> None:
    (hf_folder / "chat_template.jinja").write_text("from the file")
    assert read(hf_folder).chat_template == "from the file"


def test_named_templates_give_the_default(hf_folder: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    configure(hf_folder, chat_template=named)
    assert read(hf_folder).chat_template == "plain"


def test_bos_of_the_post_processor_is_seen(hf_folder: Path) -> None:
    (hf_folder / "tokenizer.json").write_text(tokenizer_with_bos().to_str())
    assert read(hf_folder).add_bos


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), tokenizer_with_bos()], ids=["without", "with"])
@pytest.mark.parametrize("wanted", [True, False])
def test_explicit_add_bos_overrules_tokenizer_json(hf_folder: Path, tokenizer: Tokenizer, wanted: bool) -> None:
    (hf_folder / "tokenizer.json").write_text(tokenizer.to_str())
    configure(hf_folder, add_bos_token=wanted)
    files = read(hf_folder)
    assert files.add_bos is wanted
    tokens = Tokenizer.from_str(files.tokenizer_json).encode("hello").tokens
    assert tokens == (["<|im_start|>", "hello"] if wanted else ["hello"])


def test_truncation_and_padding_are_dropped(hf_folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    (hf_folder / "tokenizer.json").write_text(tokenizer.to_str())
    assert len(Tokenizer.from_str(read(hf_folder).tokenizer_json).encode("abcde").ids) == 5


def test_slow_tokenizer_is_converted(hf_folder: Path) -> None:
    (hf_folder / "tokenizer.json").unlink()
    vocab = {token: index for index, token in enumerate(byte_level_tokens())}
    (hf_folder / "vocab.json").write_text(json.dumps(vocab))
    (hf_folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)) + "\n")
    configure(hf_folder, tokenizer_class="GPT2Tokenizer", eos_token="<|im_end|>")
    converted, original = Tokenizer.from_str(read(hf_folder).tokenizer_json), tiny_tokenizer()
    for text in ("hello hello 12", "naïve 😀", "<|im_start|>hello<|im_end|>"):
        assert converted.encode(text).ids == original.encode(text).ids


def test_slow_tokenizer_that_cannot_be_converted(hf_folder: Path) -> None:
    (hf_folder / "tokenizer.json").unlink()
    (hf_folder / "tokenizer.model").write_bytes(b"not a sentencepiece model")
    configure(hf_folder, tokenizer_class="LlamaTokenizer", eos_token="<|im_end|>")
    with pytest.raises(UnsupportedModelError, match="cannot be converted"):
        read(hf_folder)


def test_remote_code_is_never_run(hf_folder: Path) -> None:
    (hf_folder / "tokenizer.json").unlink()
    (hf_folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')\n")
    configure(
        hf_folder, tokenizer_class="Evil", eos_token="<|im_end|>", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    )
    with pytest.raises(UnsupportedModelError, match="cannot be converted"):
        read(hf_folder)


def test_missing_and_malformed_files(hf_folder: Path) -> None:
    (hf_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read(hf_folder)
    (hf_folder / "tokenizer.json").unlink()
    (hf_folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        read(hf_folder)


def test_special_token_outside_the_vocabulary(hf_folder: Path) -> None:
    configure(hf_folder, eos_token="<|nowhere|>")
    with pytest.raises(CheckpointError, match="nowhere"):
        read(hf_folder)
