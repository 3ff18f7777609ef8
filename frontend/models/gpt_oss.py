"""gpt-oss (transformers `modeling_gpt_oss`): experts whose matrices lie in one tensor, and sinks in attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import dense, split, width
from warploom.frontend.models.experts import Experts, read_experts, route
from warploom.frontend.models.mlp import Mlp
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.weights import Weights
from warploom.frontend.models.windows import read_windows
from warploom.ir.function import scope
from warploom.ir.ops.activation import clamped_swiglu
from warploom.ir.ops.elementwise import add, as_dtype
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.mxfp4 import dequantize_mxfp4
from warploom.ir.ops.routing import combine_experts
from warploom.ir.ops.shape import gather, reshape, transpose
from warploom.ir.types import type_of

YARN = {  # what transformers takes where a config says nothing of rope
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    stated = config.get("rope_parameters") or config.get("rope_scaling")
    read = ConfigReader(config if stated else {**config, "rope_scaling": YARN}, "gpt-oss")
    sizes, norm = read_sizes(read, head_dim=64), rms(read.real("rms_norm_eps", 1e-5))
    rotary = read_rotary(read, sizes.head_dim, theta=150000.0)
    read.expect("hidden_act", "silu")
    read.ignore("experts_per_token", "initial_context_length")  # other names of fields that are stated too
    bias = read.flag("attention_bias", True)
    mlp = _mixture(
        read_experts(read, sizes.intermediate, normalized=True),
        read.real("swiglu_alpha", 1.702),
        read.real("swiglu_limit", 7.0),
    )

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotary, window=window)
        attention = self_attention(heads, separate(heads, bias=bias), out_bias=bias, sinks=True)
        return pre_norm(norm, attention, mlp)

    windows = read_windows(read, sizes.layers, default=128, sliding=lambda index: index % 2 == 0)
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


def _mixture(experts: Experts, alpha: float, limit: float) -> Mlp:
    """sum of share * expert(x) over the chosen experts; all products have biases."""
    count, size = experts.count, experts.size

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        tokens, hidden = type_of(x).shape[0], width(x)
        shares, chosen = route(experts, dense(weights / "router", x, count, bias=True))
        first = Product(weights / "experts", "gate_up_proj", count, 2 * size, _gate_then_up)
        second = Product(weights / "experts", "down_proj", count, hidden)
        gate, up = split(first(reshape(x, shape=(tokens, 1, hidden)), chosen), (size, size))
        inner = clamped_swiglu(gate, up, alpha=alpha, limit=limit)
        result: mlir.Value = combine_experts(second(inner, chosen), shares)
        return result

    return mlp


@dataclass(frozen=True)
class Product:
    """x [T, J or 1, K] times the matrix of each chosen expert, plus its bias: [T, J, n].

    Attributes:
        weights: of the module that holds `name` [count, K, n], or what stands for [count, n, K], and its bias.
        ordered: what brings the n rows of [count, n, ..] into order.
    """

    weights: Weights
    name: str
    count: int
    n: int
    ordered: Callable[[mlir.Value], mlir.Value] = lambda rows: rows

    def __call__(self, x: mlir.Value, chosen: mlir.Value) -> mlir.Value:
        """Of the experts `chosen` [T, J]."""
        with scope(self.weights.path):
            y = expert_linear(x, chosen, self._matrix(width(x)), n=self.n)
            bias = self.ordered(self.weights(f"{self.name}_bias", (self.count, self.n)))
            result: mlir.Value = add(y, as_dtype(gather(bias, chosen), type_of(y).dtype))
        return result

    def _matrix(self, k: int) -> mlir.Value:
        """[count * n, k]."""
        shape = (self.count, k, self.n)
        if parts := self.weights.parts(self.name, shape):
            return dequantize_mxfp4(*map(self._rows, parts))
        return self._rows(transpose(self.weights(self.name, shape), permutation=(0, 2, 1)))

    def _rows(self, value: mlir.Value) -> mlir.Value:
        rows, columns = self.count * self.n, width(value)
        each = self.ordered(reshape(value, shape=(self.count, self.n, columns)))
        return reshape(each, shape=(rows, columns))


def _gate_then_up(rows: mlir.Value) -> mlir.Value:
    """[E, 2 * size, ..], whose rows are gate and up in turn, with all of gate first."""
    count, both, *rest = shape = type_of(rows).shape
    assert isinstance(both, int)
    pairs = reshape(rows, shape=(count, both // 2, 2, *rest))
    turned = transpose(pairs, permutation=(0, 2, 1, *range(3, 3 + len(rest))))
    result: mlir.Value = reshape(turned, shape=shape)
    return result


FAMILY = Family(
    "gpt-oss",
    ("GptOssForCausalLM",),
    parse,
    ("mixture of experts", "attention sinks", "sliding window", "MXFP4 experts"),
    checked=("cpu", "cuda"),
)
