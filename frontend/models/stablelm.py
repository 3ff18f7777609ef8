"""StableLM (transformers `modeling_stablelm`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import width
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.norms import layer as layer_norm
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import parallel, pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.norm import layer_norm as normalize
from warploom.ir.ops.shape import concat, reshape
from warploom.ir.types import type_of


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "StableLM")
    sizes, eps = read_sizes(read), read.real("layer_norm_eps", 1e-5)
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, partial=0.25))
    qk_norm = _per_head(eps) if read.flag("qk_layernorm", False) else None
    project = separate(heads, bias=read.flag("use_qkv_bias", False), qk_norm=qk_norm, norm_name="layernorm")
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))
    pattern = parallel if read.flag("use_parallel_residual", False) else pre_norm
    layer = pattern(layer_norm(eps), self_attention(heads, project), mlp)
    read.finish()
    return Decoder(sizes, (layer,) * sizes.layers, layer_norm(eps))


def _per_head(eps: float) -> Norm:
    """LayerNorm of x [T, heads, head_dim] with a module `norms.<head>` for each head."""

    def norm(weights: Weights, x: mlir.Value) -> mlir.Value:
        size, count = width(x), type_of(x).shape[1]
        assert isinstance(count, int)
        rows = [reshape((weights / "norms" / i)("weight", (size,)), shape=(1, size)) for i in range(count)]
        result: mlir.Value = normalize(x, concat(*rows, axis=0), eps=eps)
        return result

    return norm


FAMILY = Family(
    "StableLM",
    ("StableLmForCausalLM",),
    parse,
    ("LayerNorm", "partial RoPE", "optional parallel residual, QK-norm"),
    checked=("cpu", "cuda"),
)
