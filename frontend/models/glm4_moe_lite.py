"""GLM-4.7-Flash (transformers `modeling_glm4_moe_lite`): DeepSeek-V3 with other defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.deepseek_v3 import read_model
from warploom.frontend.models.registry import Family

DEFAULTS = {
    "first_k_dense_replace": 1,
    "n_group": 1,
    "norm_topk_prob": True,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "rms_norm_eps": 1e-5,
    "routed_scaling_factor": 1.8,
    "topk_group": 1,
    "v_head_dim": 256,
}


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    return read_model(ConfigReader({**DEFAULTS, **config}, "GLM-4.7-Flash"))


FAMILY = Family(
    "GLM-4.7-Flash",
    ("Glm4MoeLiteForCausalLM",),
    parse,
    ("latent attention", "mixture of experts", "shared experts", "sigmoid routing by groups", "dense layers between"),
    checked=("cpu", "cuda"),
)
