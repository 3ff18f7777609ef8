"""DeepSeek-V3, R1 and models of their architecture, such as Kimi K2 (transformers `modeling_deepseek_v3`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.deepseek import read_decoder, read_groups
from warploom.frontend.models.experts import Experts, Router
from warploom.frontend.models.registry import Family
from warploom.frontend.models.routing import biased_router


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    return read_model(ConfigReader({"norm_topk_prob": True, **config}, "DeepSeek-V3"))


def read_model(read: ConfigReader) -> Decoder:
    """Read a whole config; refuses what it does not implement."""
    read.expect("scoring_func", "sigmoid")
    read.expect("topk_method", "noaux_tc")

    def router(experts: Experts) -> Router:
        return biased_router(experts, read_groups(read, 8, 4), read.real("routed_scaling_factor", 2.5))

    decoder = read_decoder(read, router, dense=3, interleaved=read.flag("rope_interleave", True))
    read.ignore("n_group", "topk_group", "routed_scaling_factor")
    read.finish()
    return decoder


FAMILY = Family(
    "DeepSeek-V3",
    ("DeepseekV3ForCausalLM",),
    parse,
    ("latent attention", "mixture of experts", "shared experts", "sigmoid routing by groups", "dense layers between"),
    checked=("cpu", "cuda"),
)
