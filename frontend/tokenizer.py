"""The tokenizer of a Hugging Face folder as one `tokenizer.json` and the facts that the runtime needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.json_file import read_json_if_present

LARGEST_ID = (1 << 31) - 1


@dataclass(frozen=True)
class TokenizerFiles:
    """All that encoding a prompt, rendering a chat and stopping need.

    Attributes:
        tokenizer_json: contents of a Hugging Face `tokenizer.json`, without truncation or padding.
        chat_template: Jinja source, None for a model without chat.
        bos_token: its text, as chat templates refer to it; None when the model has none.
        eos_token: likewise.
        eos_token_ids: every id that ends a generation, the main one first.
        add_bos: a plain prompt begins with BOS. Encoding with `add_special_tokens=True` does exactly that; a rendered
            chat is encoded with False, since templates write BOS themselves.
    """

    tokenizer_json: str
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool


def tokenizer_from_folder(folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> TokenizerFiles:
    """Read the tokenizer beside a Hugging Face `config.json`.

    Args:
        folder: has `tokenizer.json`, or the files of a slow tokenizer that transformers can convert.
        config: the model's `config.json`.
        generation: the model's `generation_config.json`, empty when it has none.

    Raises:
        CheckpointError: no tokenizer in the folder, a malformed file, or a special token outside the vocabulary.
        UnsupportedModelError: a slow tokenizer that cannot be converted.
    """
    tokenizer = _load_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_json_if_present(folder / "tokenizer_config.json")
    special = read_json_if_present(folder / "special_tokens_map.json") | settings
    bos_token = _text(special.get("bos_token")) or _text_of_id(tokenizer, config.get("bos_token_id"))
    eos_token = _text(special.get("eos_token")) or _text_of_id(tokenizer, config.get("eos_token_id"))
    eos_token_id = None if eos_token is None else token_id(tokenizer, eos_token, folder)
    eos_ids = (generation.get("eos_token_id"), config.get("eos_token_id"), eos_token_id)
    return TokenizerFiles(
        add_bos=_settle_bos(tokenizer, bos_token, settings.get("add_bos_token"), folder),
        tokenizer_json=tokenizer.to_str(),
        chat_template=_chat_template(folder, settings),
        bos_token=bos_token,
        eos_token=eos_token,
        eos_token_ids=tuple(dict.fromkeys(token for ids in eos_ids for token in _as_list(ids))),
    )


def begin_with_bos(tokenizer: Tokenizer, bos_token: str | None, source: Path) -> None:
    """Make encoding with special tokens begin with `bos_token`, with nothing when it is None, and append nothing.

    Raises:
        CheckpointError: `bos_token` is not in the vocabulary.
    """
    if bos_token is None:
        tokenizer.post_processor = TemplateProcessing(single=["$A:0"], special_tokens=[])
    else:
        special = (bos_token, token_id(tokenizer, bos_token, source))
        tokenizer.post_processor = TemplateProcessing(single=[f"{bos_token}:0", "$A:0"], special_tokens=[special])


def token_id(tokenizer: Tokenizer, token: str, source: Path) -> int:
    """The id of a special token.

    Raises:
        CheckpointError: the vocabulary of `source` does not have it.
    """
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(
            f"special token {token!r} of {source} is not in the vocabulary",
            expected=f"{token!r} among the tokens",
            found=f"{tokenizer.get_vocab_size()} other tokens",
            fix="check that the tokenizer files belong together, or download them again",
        )
    return found


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _convert_slow_tokenizer(folder)
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers package raises bare Exception
        raise CheckpointError(
            f"{path} cannot be read",
            expected="a Hugging Face tokenizer.json",
            found=str(error),
            fix="download the file again",
        ) from error


def _convert_slow_tokenizer(folder: Path) -> Tokenizer:
    if not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer",
            expected="tokenizer.json, or tokenizer_config.json and the files that it needs",
            found=", ".join(sorted(path.name for path in folder.iterdir())),
            fix="copy the tokenizer files of the model into the folder",
        )
    try:  # only here: transformers is large, and nearly every model has a tokenizer.json
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has a slow tokenizer only, and transformers, which converts it, is not installed",
            expected="tokenizer.json, or transformers",
            fix="pip install 'warploom[convert]'",
        ) from error

    try:
        converted = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        backend = converted.backend_tokenizer
    except Exception as error:  # conversion fails in as many ways as there are slow tokenizers
        raise UnsupportedModelError(
            f"the slow tokenizer in {folder} cannot be converted to tokenizer.json",
            expected="a tokenizer that transformers can convert without remote code",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
            fix="install sentencepiece and protobuf if it is a SentencePiece model, or add a tokenizer.json",
        ) from error
    return Tokenizer.from_str(backend.to_str())


def _settle_bos(tokenizer: Tokenizer, bos_token: str | None, wanted: object, source: Path) -> bool:
    """Whether prompts begin with BOS; an explicit `add_bos_token` overrules tokenizer.json, as in transformers."""
    if bos_token is None:
        return False
    present = tokenizer.encode("a").ids[:1] == [token_id(tokenizer, bos_token, source)]
    if isinstance(wanted, bool) and wanted != present:
        begin_with_bos(tokenizer, bos_token if wanted else None, source)
        return wanted
    return present


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The default template: `chat_template.jinja`, else the one in tokenizer_config.json (alone or in a named list)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{path} cannot be read", expected="UTF-8 text", found=str(error), fix="download the file again"
            ) from error
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next(named, {}).get("template")
    return template if isinstance(template, str) else None


def _text(token: object) -> str | None:
    """The text of a special token written as a string or as an AddedToken object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _text_of_id(tokenizer: Tokenizer, ids: object) -> str | None:
    found: str | None = tokenizer.id_to_token(_as_list(ids)[0]) if _as_list(ids) else None
    return found


def _as_list(ids: object) -> list[int]:
    """The token ids among what a config says; -1 is none.

    Raises:
        CheckpointError: an id that no vocabulary has.
    """
    values = ids if isinstance(ids, list) else [ids]
    found = [value for value in values if type(value) is int and value >= 0]
    if found and max(found) > LARGEST_ID:
        raise CheckpointError(
            "the config names a special token that no vocabulary has",
            expected=f"ids up to {LARGEST_ID}",
            found=str(max(found)),
            fix="correct bos_token_id or eos_token_id in config.json or generation_config.json",
        )
    return found
