"""From a config and tensors to an IR module: `@prepare`, `@step`, `@sample` and `@logprobs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.inputs import CacheSpec, StepInputs
from warploom.frontend.models.registry import Geometry, family_of
from warploom.frontend.models.weights import Weights
from warploom.frontend.tensors import LazyTensor
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, scope
from warploom.ir.ops.latent_rows import row_size
from warploom.ir.ops.paged_cache import block_size
from warploom.ir.ops.sample import sample, top_logprobs
from warploom.ir.types import DType, TensorType, tensor

TOP_LOGPROBS = 20  # what OpenAI's API allows
MAX_BIASES = 1024
MAX_PAGES = 1 << 24


@dataclass(frozen=True)
class Limits:
    """Upper bounds of one step: tokens, sequences, and positions of a sequence."""

    max_tokens: int
    max_sequences: int
    max_context: int


def geometry_of(config: Mapping[str, Any]) -> Geometry:
    """Sizes of a model from its config; see `family_of` for errors."""
    return family_of(config).parse(config).geometry


def trace(
    config: Mapping[str, Any],
    require: Callable[[str, tuple[int, ...]], LazyTensor],
    cache: CacheSpec,
    limits: Limits,
    activation: DType = DType.F32,
) -> mlir.Module:
    """Trace a model in the current MLIR context.

    Args:
        config: as in Hugging Face's config.json.
        require: the checkpoint tensor of a name, checked to have a shape; its data is not read.
        cache: of the target.
        limits: bounds of the symbolic dims.
        activation: dtype of what flows between ops, f32 or bf16.

    Raises:
        UnsupportedModelError: architecture or config field that we do not implement.
        CheckpointError: a weight is missing or has the wrong shape.
    """
    model = family_of(config).parse(config)
    geometry = model.geometry
    module = mlir.Module.create()
    prepare = FunctionBuilder(module, "prepare", {})
    builder = FunctionBuilder(module, "step", _step_dims(cache, limits))
    values = _step_inputs(builder, cache, geometry)
    inputs = StepInputs(**values, cache=cache, activation=activation, max_context=limits.max_context)
    with builder.point:
        logits, kv = model.forward(Weights(require, prepare, {}), inputs)
    builder.finish({"logits": logits, "kv": kv})
    prepare.finish({})
    _trace_sample(module, geometry.vocab_size, limits)
    _trace_logprobs(module, geometry.vocab_size, limits)
    return module


def kv_type(geometry: Geometry, cache: CacheSpec) -> TensorType:
    """The cache of all layers, C pages."""
    block = block_size(cache.page_size, geometry.head_dim, cache.dtype)
    if geometry.latent:
        block = cache.page_size * row_size(*geometry.row, cache.dtype)
    return tensor((geometry.num_layers, "C", geometry.kv_tensors, geometry.num_kv_heads, block), cache.dtype)


def _step_dims(cache: CacheSpec, limits: Limits) -> dict[str, DimRange]:
    return {
        "T": DimRange(1, limits.max_tokens),
        "S": DimRange(1, limits.max_sequences),
        "R": DimRange(0, limits.max_tokens),
        "P": DimRange(1, -(-limits.max_context // cache.page_size)),
        "C": DimRange(1, MAX_PAGES),
    }


def _step_inputs(builder: FunctionBuilder, cache: CacheSpec, geometry: Geometry) -> dict[str, mlir.Value]:
    shapes: dict[str, tuple[str, ...]] = {
        "token_ids": ("T",),
        "positions": ("T",),
        "slots": ("T",),
        "page_table": ("S", "P"),
        "query_start": ("S+1",),
        "context_lens": ("S",),
        "logit_rows": ("R",),
    }
    values = {name: builder.input(name, tensor(shape, DType.I32)) for name, shape in shapes.items()}
    return values | {"kv": builder.input("kv", kv_type(geometry, cache), donated=True)}


def _trace_sample(module: mlir.Module, vocab: int, limits: Limits) -> None:
    dims = {
        "R": DimRange(1, limits.max_tokens),
        "H": DimRange(1, limits.max_context),
        "B": DimRange(1, MAX_BIASES),
        "M": DimRange(1, -(-vocab // 32)),
    }
    builder = FunctionBuilder(module, "sample", dims)
    types = {
        "logits": tensor(("R", vocab)),
        "temperature": tensor(("R",)),
        "top_k": tensor(("R",), DType.I32),
        "top_p": tensor(("R",)),
        "min_p": tensor(("R",)),
        "repetition_penalty": tensor(("R",)),
        "presence_penalty": tensor(("R",)),
        "frequency_penalty": tensor(("R",)),
        "seeds": tensor(("R", 2), DType.I32),
        "sample_positions": tensor(("R",), DType.I32),
        "penalty_tokens": tensor(("R", "H"), DType.I32),
        "penalty_counts": tensor(("R", "H"), DType.I32),
        "bias_tokens": tensor(("R", "B"), DType.I32),
        "bias_values": tensor(("R", "B")),
        "banned_bits": tensor(("R", "M"), DType.I32),
    }
    values = [builder.input(name, type_) for name, type_ in types.items()]
    with builder.point, scope("sample"):
        tokens, logprobs = sample(*values)
    builder.finish({"tokens": tokens, "logprobs": logprobs})


def _trace_logprobs(module: mlir.Module, vocab: int, limits: Limits) -> None:
    builder = FunctionBuilder(module, "logprobs", {"R": DimRange(1, limits.max_tokens)})
    logits = builder.input("logits", tensor(("R", vocab)))
    with builder.point, scope("logprobs"):
        tokens, values = top_logprobs(logits, k=min(TOP_LOGPROBS, vocab))
    builder.finish({"top_tokens": tokens, "top_logprobs": values})
