"""The Llama architecture: Llama 2 and 3, SmolLM2, Mistral (transformers `modeling_llama`, `modeling_mistral`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir

from warploom.errors import UnsupportedModelError
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.registry import Family, Geometry
from warploom.frontend.models.rope import Rotary, angles, rotary_from_config
from warploom.frontend.models.weights import Weights
from warploom.ir.attributes import AttrValue
from warploom.ir.function import scope
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.attention import attention, kv_write
from warploom.ir.ops.elementwise import add, as_dtype
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.norm import along_columns, rms_norm
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import gather, reshape
from warploom.ir.types import DType, type_of


@dataclass(frozen=True)
class LlamaConfig:
    """What the forward pass reads; names are Hugging Face's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rotary: Rotary
    sliding_window: int  # 0: none
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """Read a config.json.

    Raises:
        UnsupportedModelError: a field has a value, or is one, that we do not implement.
    """
    read = ConfigReader(config)
    read.expect("hidden_act", "silu")
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    head_dim = int(read.get("head_dim", hidden // heads))
    for name in ("rope_theta", "rope_scaling", "rope_parameters"):
        read.get(name)
    kv_heads = int(read.get("num_key_value_heads", heads))
    if heads % kv_heads:
        raise UnsupportedModelError(f"{heads} query heads are no multiple of {kv_heads} key-value heads")
    parsed = LlamaConfig(
        vocab_size=read.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=read.integer("intermediate_size"),
        num_hidden_layers=read.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=read.integer("max_position_embeddings"),
        rms_norm_eps=float(read.get("rms_norm_eps", 1e-6)),
        rotary=rotary_from_config(config, head_dim),
        sliding_window=int(read.get("sliding_window", 0)),
        attention_bias=bool(read.get("attention_bias", False)),
        mlp_bias=bool(read.get("mlp_bias", False)),
        tie_word_embeddings=bool(read.get("tie_word_embeddings", False)),
    )
    read.finish()
    return parsed


def geometry(config: LlamaConfig) -> Geometry:
    """Sizes for the KV cache and the runtime."""
    return Geometry(
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_context=config.max_position_embeddings,
    )


def forward(config: LlamaConfig, weights: Weights, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
    """One step: logits [R, V] and the updated kv."""
    model = weights / "model"
    table = (model / "embed_tokens")("weight", (config.vocab_size, config.hidden_size))
    with scope("model.embed_tokens"):
        x = as_dtype(embed(step.token_ids, table, n=config.vocab_size, layout="row"), step.activation)
    with scope("model.rotary_emb"):
        rotation = angles(config.rotary, step.positions)
    kv = step.kv
    for index in range(config.num_hidden_layers):
        x, kv = _layer(config, model / "layers" / index, index, x, kv, rotation, step)
    with scope("model.norm"):
        rows = gather(x, step.logit_rows)
        rows = rms_norm(rows, (model / "norm")("weight", (config.hidden_size,)), eps=config.rms_norm_eps)
    with scope("lm_head"):
        tied = config.tie_word_embeddings
        head = table if tied else (weights / "lm_head")("weight", (config.vocab_size, config.hidden_size))
        return linear(as_dtype(rows, DType.F32), head, n=config.vocab_size, layout="row"), kv


def _layer(
    config: LlamaConfig,
    weights: Weights,
    index: int,
    x: mlir.Value,
    kv: mlir.Value,
    rotation: tuple[mlir.Value, mlir.Value],
    step: StepInputs,
) -> tuple[mlir.Value, mlir.Value]:
    size, eps = config.hidden_size, config.rms_norm_eps
    with scope((weights / "self_attn").path):
        normed = rms_norm(x, (weights / "input_layernorm")("weight", (size,)), eps=eps)
        mixed, kv = _attend(config, weights / "self_attn", index, normed, kv, rotation, step)
        x = add(x, mixed)
    with scope((weights / "mlp").path):
        normed = rms_norm(x, (weights / "post_attention_layernorm")("weight", (size,)), eps=eps)
        return add(x, _mlp(config, weights / "mlp", normed)), kv


def _attend(
    config: LlamaConfig,
    weights: Weights,
    index: int,
    x: mlir.Value,
    kv: mlir.Value,
    rotation: tuple[mlir.Value, mlir.Value],
    step: StepInputs,
) -> tuple[mlir.Value, mlir.Value]:
    def heads(name: str, count: int) -> mlir.Value:
        y = _project(weights / name, x, count * config.head_dim, config.attention_bias)
        result: mlir.Value = reshape(y, shape=(type_of(x).shape[0], count, config.head_dim))
        return result

    paging: dict[str, AttrValue] = {"layer": index, "page_size": step.cache.page_size, "k_layout": step.cache.k_layout}
    q = rope(heads("q_proj", config.num_attention_heads), *rotation)
    k = rope(heads("k_proj", config.num_key_value_heads), *rotation)
    kv = kv_write(kv, k, heads("v_proj", config.num_key_value_heads), step.slots, **paging)
    pages = (step.page_table, step.query_start, step.context_lens)
    mixed = attention(q, kv, *pages, **paging, scale=config.head_dim**-0.5, window=config.sliding_window)
    width = config.num_attention_heads * config.head_dim
    flat = reshape(mixed, shape=(type_of(x).shape[0], width))
    return _project(weights / "o_proj", flat, config.hidden_size, config.attention_bias), kv


def _mlp(config: LlamaConfig, weights: Weights, x: mlir.Value) -> mlir.Value:
    gate = _project(weights / "gate_proj", x, config.intermediate_size, config.mlp_bias)
    up = _project(weights / "up_proj", x, config.intermediate_size, config.mlp_bias)
    return _project(weights / "down_proj", swiglu(gate, up), config.hidden_size, config.mlp_bias)


def _project(weights: Weights, x: mlir.Value, n: int, bias: bool) -> mlir.Value:
    """x @ W^T, plus a bias if the family has one."""
    k = type_of(x).shape[-1]
    assert isinstance(k, int)
    y: mlir.Value = linear(x, weights("weight", (n, k)), n=n, layout="row")
    if not bias:
        return y
    result: mlir.Value = add(y, along_columns(as_dtype(weights("bias", (n,)), type_of(y).dtype), y))
    return result


FAMILY = Family(("LlamaForCausalLM", "MistralForCausalLM"), parse, geometry, forward)
