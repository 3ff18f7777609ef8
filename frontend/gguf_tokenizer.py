"""A `tokenizer.json` from the metadata of a GGUF file: byte-level BPE ("gpt2") and SentencePiece BPE ("llama")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from warploom.errors import UnsupportedModelError
from warploom.frontend.gguf_file import GGUFFile
from warploom.frontend.gguf_metadata import Metadata
from warploom.frontend.gguf_pre_tokenizers import PreTokenizer, pre_tokenizer
from warploom.frontend.tokenizer import TokenizerFiles, begin_with_bos

# A GGUF names one EOS; chat models end turns with others too. These texts end a generation wherever they are
# control tokens (llama.cpp treats them likewise).
END_TOKENS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>")
)
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
SPACE = "▁"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` (llama.cpp's llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF; the id of a token is its place in both lists."""

    tokens: Sequence[str]
    types: Sequence[int]

    def ids(self) -> dict[str, int]:
        """Token to id; the first of equal tokens wins."""
        return {token: index for index, token in reversed(list(enumerate(self.tokens)))}

    def of_type(self, *types: TokenType) -> list[str]:
        """The tokens of the given types, in order of id."""
        return [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in types]


def tokenizer_from_gguf(file: GGUFFile) -> TokenizerFiles:
    """The tokenizer that a GGUF file describes.

    Raises:
        CheckpointError: a part of the tokenizer is missing or malformed.
        UnsupportedModelError: a tokenizer model or a pre-tokenizer that is not supported.
    """
    metadata = Metadata(file, "tokenizer.ggml.")
    vocabulary = _read_vocabulary(metadata)
    tokenizer, add_bos_default = _build(metadata, vocabulary)
    tokenizer.add_special_tokens(
        [_added(token, special=True) for token in vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)]
    )
    tokenizer.add_tokens([_added(token, special=False) for token in vocabulary.of_type(TokenType.USER_DEFINED)])
    bos_token, eos_token = (_special_token(metadata, vocabulary, key) for key in ("bos_token_id", "eos_token_id"))
    add_bos = bos_token is not None and metadata.flag("add_bos_token", default=add_bos_default)
    begin_with_bos(tokenizer, bos_token if add_bos else None, file.path)
    template = Metadata(file, "tokenizer.").text("chat_template", default="")
    return TokenizerFiles(
        tokenizer_json=tokenizer.to_str(),
        chat_template=template or None,
        bos_token=bos_token,
        eos_token=eos_token,
        eos_token_ids=_end_ids(metadata, vocabulary),
        add_bos=add_bos,
    )


def _read_vocabulary(metadata: Metadata) -> Vocabulary:
    tokens = metadata.items("tokens", str)
    if "token_type" not in metadata:
        return Vocabulary(tokens, [TokenType.NORMAL] * len(tokens))
    return Vocabulary(tokens, metadata.items("token_type", int, length=len(tokens)))


def _build(metadata: Metadata, vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """The tokenizer without its special tokens, and whether prompts begin with BOS when the file does not say."""
    model = metadata.text("model")
    if model == "gpt2":
        cut = pre_tokenizer(metadata.text("pre", default="default"))
        return _byte_level_bpe(metadata, vocabulary, cut), cut.add_bos
    if model == "llama":
        return _sentencepiece_bpe(metadata, vocabulary), True
    raise UnsupportedModelError(
        f"the tokenizer of {metadata.file.path} is not supported",
        expected="tokenizer.ggml.model gpt2 (byte-level BPE) or llama (SentencePiece BPE)",
        found=repr(model),
        fix="use the model's safetensors checkpoint with its tokenizer.json",
    )


def _byte_level_bpe(metadata: Metadata, vocabulary: Vocabulary, cut: PreTokenizer) -> Tokenizer:
    merges = [_merge_pair(metadata, merge) for merge in metadata.items("merges", str)]
    tokenizer = _bpe_tokenizer(metadata, vocabulary, merges, ignore_merges=cut.ignore_merges)
    pieces = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cut.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pieces, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merge_pair(metadata: Metadata, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise metadata.unusable("merges", "two tokens with a space between them", merge)
    return left, right


def _sentencepiece_bpe(metadata: Metadata, vocabulary: Vocabulary) -> Tokenizer:
    """SentencePiece's BPE as Hugging Face writes Llama 2's: spaces are "▁", unknown characters become byte tokens."""
    unknown = next(iter(vocabulary.of_type(TokenType.UNKNOWN)), None)
    merges = _merges_from_scores(metadata, vocabulary)
    tokenizer = _bpe_tokenizer(metadata, vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token=unknown)
    prefixed = metadata.flag("add_space_prefix", default=True)
    prepend = [normalizers.Prepend(SPACE)] if prefixed else []
    strip = [decoders.Strip(content=" ", left=1, right=0)] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges_from_scores(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, best score of the result first.

    SentencePiece merges the neighbours whose result scores best (Sennrich's BPE with scores for ranks); a merge list
    in that order does the same.
    """
    scores = metadata.items("scores", float, length=len(vocabulary.tokens))
    parts = set(vocabulary.of_type(TokenType.NORMAL, TokenType.USER_DEFINED))
    normal = (index for index, kind in enumerate(vocabulary.types) if kind == TokenType.NORMAL)
    merges = []
    for index in sorted(normal, key=lambda index: -scores[index]):
        token = vocabulary.tokens[index]
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        merges += [pair for pair in pairs if pair[0] in parts and pair[1] in parts]
    return merges


def _bpe_tokenizer(
    metadata: Metadata, vocabulary: Vocabulary, merges: list[tuple[str, str]], **options: bool | str | None
) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocab=vocabulary.ids(), merges=merges, **options))
    except Exception as error:  # the tokenizers package raises bare Exception
        raise metadata.unusable("merges", "pairs of tokens of the vocabulary", str(error)) from error


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, special=special, normalized=False)


def _special_id(metadata: Metadata, vocabulary: Vocabulary, key: str) -> int | None:
    if key not in metadata:
        return None
    index = metadata.integer(key)
    if not 0 <= index < len(vocabulary.tokens):
        raise metadata.unusable(key, f"an id below {len(vocabulary.tokens)}", index)
    return index


def _special_token(metadata: Metadata, vocabulary: Vocabulary, key: str) -> str | None:
    index = _special_id(metadata, vocabulary, key)
    return None if index is None else vocabulary.tokens[index]


def _end_ids(metadata: Metadata, vocabulary: Vocabulary) -> tuple[int, ...]:
    named = [_special_id(metadata, vocabulary, key) for key in END_KEYS]
    controls = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    known = [index for index, (token, kind) in controls if kind == TokenType.CONTROL and token in END_TOKENS]
    return tuple(dict.fromkeys(index for index in named + known if index is not None))
