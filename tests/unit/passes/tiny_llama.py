"""A small Llama traced without a checkpoint, for tests that look at programs."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import LazyTensor, require
from warploom.frontend.trace import Limits, trace
from warploom.ir.types import DType

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
LAYERS = CONFIG["num_hidden_layers"]
LIMITS = Limits(max_tokens=32, max_sequences=8, max_context=128)
CACHE = CacheSpec(page_size=16, dtype=DType.F32, k_layout="dim_major")


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, LazyTensor]:
    """Small random weights of the shapes that the config implies."""
    hidden, middle, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        rows = {"self_attn.q_proj": q, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
        rows |= {"mlp.gate_proj": middle, "mlp.up_proj": middle}
        layer: dict[str, tuple[int, ...]] = {f"{name}.weight": (n, hidden) for name, n in rows.items()}
        layer |= {"self_attn.o_proj.weight": (hidden, q), "mlp.down_proj.weight": (hidden, middle)}
        layer |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    rng = np.random.default_rng(seed)
    arrays = {name: (rng.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in shapes.items()}
    return {n: LazyTensor(n, a.shape, "f32", "made here", lambda a=a: a) for n, a in arrays.items()}


def traced(config: dict[str, Any] | None = None) -> mlir.Module:
    """The traced module, in the current context."""
    config = {**CONFIG, **(config or {})}
    return trace(config, partial(require, random_tensors(config)), CACHE, LIMITS)
