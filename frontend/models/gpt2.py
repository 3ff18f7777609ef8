"""GPT-2 (transformers `modeling_gpt2`): learned positions, LayerNorm, weights stored transposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.attention import Heads, Mixer, Place, attend, split_heads
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder, Names
from warploom.frontend.models.dense import project, split, width
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.mlp import ACTIVATIONS
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.sizes import read_older_sizes
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.elementwise import add, as_dtype
from warploom.ir.ops.linear import embed
from warploom.ir.ops.shape import transpose
from warploom.ir.types import type_of


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "GPT-2")
    sizes = read_older_sizes(read, "n_embd", "n_head", "n_layer", "n_positions")
    act = read.expect("activation_function", "gelu_new", *ACTIVATIONS)
    norm = layer_norm(read.real("layer_norm_epsilon", 1e-5))

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        return _conv1d(
            weights / "c_proj", ACTIVATIONS[act](_conv1d(weights / "c_fc", x, sizes.intermediate)), sizes.hidden
        )

    layer = pre_norm(norm, _attention(Heads.of(sizes, None)), mlp, names=("ln_1", "attn", "ln_2", "mlp"))
    read.expect("scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        read.expect(name, False)
    read.ignore("n_ctx", "reorder_and_upcast_attn", *(name for name in config if name.startswith("summary_")))
    read.finish()
    names = Names("transformer", "wte", "h", "ln_f")
    return Decoder(sizes, (layer,) * sizes.layers, norm, names, embedded=_with_positions(sizes.max_context))


def _attention(heads: Heads) -> Mixer:
    def mix(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        parts = split(_conv1d(weights / "c_attn", x, sum(heads.widths)), heads.widths)
        q, k, v = (split_heads(part, heads.num_heads, heads.head_dim) for part in parts)
        mixed, kv = attend(heads, q, k, v, place)
        return _conv1d(weights / "c_proj", mixed, width(x)), kv

    return mix


def _conv1d(weights: Weights, x: mlir.Value, n: int) -> mlir.Value:
    """x @ W + b; W [K, n] is stored the other way round than that of a linear, but not where it is quantized (GGUF)."""
    shape = (width(x), n)
    if parts := weights.parts("weight", shape):
        return project(x, dequantize(*parts), weights("bias", (n,)))
    return project(x, transpose(weights("weight", shape), permutation=(1, 0)), weights("bias", (n,)))


def _with_positions(context: int) -> Any:
    def embedded(weights: Weights, x: mlir.Value, step: StepInputs) -> mlir.Value:
        table = (weights / "wpe")("weight", (context, width(x)))
        positions = embed(step.positions, table, n=context, layout="row")
        return add(x, as_dtype(positions, type_of(x).dtype))

    return embedded


FAMILY = Family(
    "GPT-2",
    ("GPT2LMHeadModel",),
    parse,
    ("learned positions", "LayerNorm", "plain GELU MLP", "biases"),
    checked=("cpu", "cuda"),
)
