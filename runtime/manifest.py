"""The manifest of an artifact: what is in the folder, for which model and machines. Format version 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

Positive: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]
Quantization: TypeAlias = Literal["f32", "bf16", "int8"]


class ModelInfo(msgspec.Struct, frozen=True):
    """Where the model came from: hub id or folder, architecture class name, parameter count."""

    id: str
    architecture: str
    num_parameters: int


class TokenizerInfo(msgspec.Struct, frozen=True):
    """The tokenizer's facts.

    Attributes:
        file: path of `tokenizer.json` in the artifact.
        chat_template: path of the Jinja template in the artifact, or None.
        bos_token, eos_token: their text, given to the chat template.
        eos_token_ids: every id that ends a generation.
        add_bos: whether a plain prompt is encoded with `bos_token` in front.
    """

    file: str
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    eos_token_ids: list[int] = []
    add_bos: bool = False


class GenerationInfo(msgspec.Struct, frozen=True):
    """The model authors' generation defaults, named as in Hugging Face's `generation_config.json`.

    They are used only for requests that carry no sampling parameters at all. None: not stated.
    """

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


class KVInfo(msgspec.Struct, frozen=True):
    """The KV cache: [num_layers, pages, 2, num_kv_heads, page_size * head_dim] of `dtype` (f32 or bf16)."""

    num_layers: Positive
    num_kv_heads: Positive
    head_dim: Positive
    page_size: Positive
    dtype: str
    bytes_per_page: Positive


class Variant(msgspec.Struct, frozen=True):
    """The target's code for one ISA level. `features`: the `/proc/cpuinfo` flags that it needs."""

    isa: str
    file: str
    features: list[str]


class TargetInfo(msgspec.Struct, frozen=True):
    """One target: its plan's path, code variants from most to least demanding, scratch bytes per thread."""

    plan: str
    variants: list[Variant]
    scratch_bytes: int = 0


class FileInfo(msgspec.Struct, frozen=True):
    """Size and content hash (hex) of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `manifest.json`.

    Attributes:
        config: the model's Hugging Face config.
        max_context: most tokens (prompt and output) of one sequence.
        targets: by name; format version 1 knows `cpu`.
        weights: paths of the safetensors shards. `files`: every file but the manifest. The writer fills both.
    """

    format_version: int = FORMAT_VERSION
    warploom_version: str
    model: ModelInfo
    config: dict[str, Any]
    vocab_size: Positive
    max_context: Positive
    tokenizer: TokenizerInfo
    generation: GenerationInfo = GenerationInfo()
    kv: KVInfo
    quantization: Quantization
    targets: dict[str, TargetInfo]
    weights: list[str] = []
    files: dict[str, FileInfo] = {}
