"""gpt-oss (transformers `modeling_gpt_oss`): experts whose matrices lie in one tensor, and sinks in attention."""

from __future__ import annotations

from collections.abc import Mapping
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
from warploom.ir.ops.elementwise import add, as_dtype, logistic, maximum, minimum, mul
from warploom.ir.ops.experts import expert_linear
from warploom.ir.ops.norm import along_rows
from warploom.ir.ops.reduce import reduce_sum
from warploom.ir.ops.shape import full, gather, reshape, transpose
from warploom.ir.types import DType, type_of

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
        inside = weights / "experts"
        first = _gate_then_up(inside("gate_up_proj", (count, hidden, 2 * size)))
        second = transpose(inside("down_proj", (count, size, hidden)), permutation=(0, 2, 1))
        biases = _gate_then_up(inside("gate_up_proj_bias", (count, 2 * size)))
        both = _product(reshape(x, shape=(tokens, 1, hidden)), chosen, first, biases)
        gate, up = split(both, (size, size))
        y = _product(_gated(gate, up, alpha, limit), chosen, second, inside("down_proj_bias", (count, hidden)))
        y = as_dtype(y, DType.F32)
        return as_dtype(reduce_sum(mul(y, along_rows(shares, y)), axis=1), type_of(x).dtype)

    return mlp


def _product(x: mlir.Value, chosen: mlir.Value, weight: mlir.Value, bias: mlir.Value) -> mlir.Value:
    """x [T, J or 1, K] times the weight [E, n, K] of each chosen expert, plus its bias [E, n]: [T, J, n]."""
    count, n, k = (int(size) for size in type_of(weight).shape)  # type: ignore[arg-type]
    y = expert_linear(x, chosen, reshape(weight, shape=(count * n, k)), n=n)
    result: mlir.Value = add(y, as_dtype(gather(bias, chosen), type_of(y).dtype))
    return result


def _gated(gate: mlir.Value, up: mlir.Value, alpha: float, limit: float) -> mlir.Value:
    """(up + 1) * gate * sigmoid(alpha * gate), gate up to the limit, up within it."""
    type_ = type_of(gate)

    def all_(value: float) -> mlir.Value:
        return full(shape=type_.shape, value=value, dtype=type_.dtype.value)

    gate = minimum(gate, all_(limit))
    up = maximum(minimum(up, all_(limit)), all_(-limit))
    result: mlir.Value = mul(add(up, all_(1.0)), mul(gate, logistic(mul(gate, all_(alpha)))))
    return result


def _gate_then_up(value: mlir.Value) -> mlir.Value:
    """[E, .., 2 * size], whose columns are gate and up in turn, as [E, 2 * size, ..] with all of gate first."""
    count, *inner, both = type_of(value).shape
    assert isinstance(both, int)
    pairs = reshape(value, shape=(count, *inner, both // 2, 2))
    rank = type_of(pairs).rank
    turned = transpose(pairs, permutation=(0, rank - 1, rank - 2, *range(1, rank - 2)))
    result: mlir.Value = reshape(turned, shape=(count, both, *inner))
    return result


FAMILY = Family(
    "gpt-oss",
    ("GptOssForCausalLM",),
    parse,
    ("mixture of experts", "attention sinks", "sliding window", "MXFP4 experts"),
)
