"""What the names in a GGUF's `tokenizer.ggml.pre` mean: how text is cut before byte-level BPE merges it.

A GGUF file keeps only the name. The patterns are those of the models' own tokenizer.json; which name stands for which
pattern is llama.cpp's table (src/llama-vocab.cpp), where the patterns are rewritten for its smaller regex engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warploom.errors import UnsupportedModelError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


@dataclass(frozen=True)
class PreTokenizer:
    """How one family of models cuts text.

    Attributes:
        patterns: applied one after the other; each match, and each text between matches, becomes a piece of its own.
        ignore_merges: a piece that is a token is taken whole, even where merges would not build it.
        add_bos: prompts begin with BOS when the file does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_SINGLE_DIGITS = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3 = PreTokenizer((f"{_WORDS}|\\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",), ignore_merges=True, add_bos=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((_GPT2,)),
    "mpt": PreTokenizer((_GPT2,)),
    "olmo": PreTokenizer((_GPT2,)),
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "smaug-bpe": PreTokenizer(_LLAMA3.patterns),
    "qwen2": PreTokenizer((f"{_WORDS}|\\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    "deepseek-r1-qwen": PreTokenizer((f"{_WORDS}|\\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    # Mistral Nemo: words are cut where lower case turns to upper case.
    "tekken": PreTokenizer(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
            rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        ),
        ignore_merges=True,
        add_bos=True,
    ),
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that GGUF calls `name`.

    Raises:
        UnsupportedModelError: the name is not in the table. Another pattern would encode most text almost rightly,
            which is worse than not at all.
    """
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            "the pre-tokenizer that the GGUF file names is not supported",
            expected=f"tokenizer.ggml.pre, one of {', '.join(sorted(PRE_TOKENIZERS))}",
            found=repr(name),
            fix="use the model's safetensors checkpoint with its tokenizer.json",
        )
    return PRE_TOKENIZERS[name]
