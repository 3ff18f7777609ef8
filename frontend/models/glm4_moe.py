"""GLM-4.5 to 4.7 (transformers `modeling_glm4_moe`): experts as DeepSeek-V3's, with plain attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.deepseek import read_blocks, read_groups
from warploom.frontend.models.experts import Experts, Router
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import pre_norm
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.routing import biased_router
from warploom.frontend.models.sizes import read_sizes


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader({"norm_topk_prob": True, **config}, "GLM-4.5")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    heads = Heads.of(sizes, read_rotary(read, sizes.head_dim, partial=0.5))
    qk_norm = norm if read.flag("use_qk_norm", False) else None
    attention = self_attention(heads, separate(heads, bias=read.flag("attention_bias", False), qk_norm=qk_norm))

    def router(experts: Experts) -> Router:
        return biased_router(experts, read_groups(read, 1, 1), read.real("routed_scaling_factor", 1.0))

    blocks = read_blocks(read, sizes, router, dense=1)
    read.ignore("n_group", "topk_group", "routed_scaling_factor")
    read.finish()
    return Decoder(sizes, tuple(pre_norm(norm, attention, *block) for block in blocks), norm)


FAMILY = Family(
    "GLM-4.5",
    ("Glm4MoeForCausalLM",),
    parse,
    ("mixture of experts", "shared experts", "sigmoid routing by groups", "dense layers between", "partial RoPE"),
    checked=("cpu", "cuda"),
)
