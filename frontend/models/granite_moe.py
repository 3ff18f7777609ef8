"""Granite 3 with a mixture of experts (transformers `modeling_granitemoe`), whose matrices lie in one tensor each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import dense
from warploom.frontend.models.experts import Experts, mixture, read_experts, route
from warploom.frontend.models.granite import read_model
from warploom.frontend.models.mlp import Mlp
from warploom.frontend.models.registry import Family
from warploom.frontend.models.sizes import Sizes
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.shape import reshape


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    return read_model(ConfigReader(config, "Granite MoE"), "block_sparse_moe", _mixture)


def _mixture(read: ConfigReader, sizes: Sizes) -> Mlp:
    experts = read_experts(read, sizes.intermediate, normalized=True)
    return mixture(experts, read.expect("hidden_act", "silu"), partial(_router, experts), matrices=_matrices)


def _router(experts: Experts, weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
    return route(experts, dense(weights / "router" / "layer", x, experts.count))


def _matrices(weights: Weights, experts: Experts, hidden: int) -> tuple[mlir.Value, mlir.Value]:
    count, size = experts.count, experts.size
    first = _rows(weights / "input_linear", (count, 2 * size, hidden))
    return first, _rows(weights / "output_linear", (count, hidden, size))


def _rows(weights: Weights, shape: tuple[int, int, int]) -> mlir.Value:
    """[count * n, k] of the weight [count, n, k]; quantized ones (GGUF) are stored so."""
    count, n, k = shape
    parts = weights.parts("weight", shape)
    result: mlir.Value = dequantize(*parts) if parts else reshape(weights("weight", shape), shape=(count * n, k))
    return result


FAMILY = Family(
    "Granite MoE",
    ("GraniteMoeForCausalLM",),
    parse,
    ("Granite's multipliers", "mixture of experts"),
    checked=("cpu", "cuda"),
)
