"""The manifest of an artifact: what is in the folder, for which model and machines. Format version 2."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

FORMAT_VERSION = 2  # 2: each target has its own KV cache layout
MANIFEST_FILE = "manifest.json"

Positive: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]


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
    """The KV cache: [num_layers, pages, tensors, num_kv_heads, block] of `dtype` (a plan dtype).

    `tensors` is 2, keys and values, or 1: rows that are both. A `block` is page_size * head_dim numbers; then an
    exponent for each token of keys and values in i8, or `powers` for each row of 8 bits.
    """

    num_layers: Positive
    num_kv_heads: Positive
    head_dim: Positive
    page_size: Positive
    dtype: str
    bytes_per_page: Positive
    tensors: Positive = 2
    powers: int = 0

    @property
    def block(self) -> int:
        """Numbers of a page of one head."""
        exponents = 1 if self.dtype == "i8" and self.tensors == 2 else 0
        return self.page_size * (self.head_dim + exponents + self.powers)

    def pages(self, num_tokens: int) -> int:
        """Return how many pages one sequence of `num_tokens` takes."""
        return -(-num_tokens // self.page_size)


class Variant(msgspec.Struct, frozen=True):
    """The target's code for one ISA level. `features`: the `/proc/cpuinfo` flags that it needs."""

    isa: str
    file: str
    features: list[str]


class CudaTargetInfo(msgspec.Struct, frozen=True):
    """What the target `cuda:<arch>` needs.

    CUDA versions are 1000 * major + 10 * minor, as the driver counts them.

    Attributes:
        arch: what its machine code is for: `sm_90`.
        portable: the code uses nothing that only this architecture has: its cubins run on later GPUs of the same
            major version, and its PTX on all later GPUs.
        min_driver: CUDA version that a driver must know to load the cubins.
        min_ptx_driver: the same, to translate the PTX.
        deterministic: a request's tokens do not depend on what else is in the batch.
    """

    arch: str
    portable: bool
    min_driver: int
    min_ptx_driver: int
    deterministic: bool = False


class TargetInfo(msgspec.Struct, frozen=True):
    """One target.

    Attributes:
        plan: path of its plan.
        kv: the KV cache that its kernels read and write.
        variants: CPU: its code, from most to least demanding.
        scratch_bytes: CPU: scratch of one thread.
        cuda: set for `cuda:<arch>`, whose code the plan names kernel by kernel.
    """

    plan: str
    kv: KVInfo
    variants: list[Variant] = []
    scratch_bytes: int = 0
    cuda: CudaTargetInfo | None = None


class RandomParam(msgspec.Struct, frozen=True):
    """A parameter that is made up at load: value `mean + scale * u`, u from the noise of `noise.random_param`.

    Attributes:
        dtype: a plan dtype: bf16, f16, f32, f8e4m3, i8 or u8.
        seed: which stretch of the noise it takes.
    """

    shape: list[int]
    dtype: str
    mean: float
    scale: float
    seed: int


class FileInfo(msgspec.Struct, frozen=True):
    """Size and content hash (hex) of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `manifest.json`.

    Attributes:
        config: the model's Hugging Face config.
        max_context: most tokens (prompt and output) of one sequence.
        quantization: how weights are stored, as one may ask the compiler for it.
        targets: by name: `cpu`, or `cuda:sm_90` and the like.
        random_params: parameters without data (a model compiled with dummy weights), by name.
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
    quantization: str
    targets: dict[str, TargetInfo]
    random_params: dict[str, RandomParam] = {}
    weights: list[str] = []
    files: dict[str, FileInfo] = {}
