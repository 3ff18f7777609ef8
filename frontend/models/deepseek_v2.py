"""DeepSeek-V2 and V2-Lite (transformers `modeling_deepseek_v2`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.deepseek import read_decoder, read_groups
from warploom.frontend.models.experts import Experts, Router
from warploom.frontend.models.registry import Family
from warploom.frontend.models.routing import ONE, softmax_router


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "DeepSeek-V2")
    read.expect("scoring_func", "softmax")

    def router(experts: Experts) -> Router:
        limited = read.expect("topk_method", "greedy", "group_limited_greedy") == "group_limited_greedy"
        groups = read_groups(read, None, None) if limited else ONE
        scale = read.real("routed_scaling_factor", 1.0)
        if experts.normalized and scale != 1.0:  # which DeepSeek's own code does not multiply then, and others do
            raise read.refusal("routed_scaling_factor", "1.0 where norm_topk_prob is true")
        return softmax_router(experts, groups, scale)

    decoder = read_decoder(read, router, dense=0, interleaved=True)
    read.ignore("topk_method", "n_group", "topk_group", "routed_scaling_factor")
    read.finish()
    return decoder


FAMILY = Family(
    "DeepSeek-V2",
    ("DeepseekV2ForCausalLM",),
    parse,
    ("latent attention", "mixture of experts", "shared experts", "groups of experts", "dense layers between"),
    checked=("cpu", "cuda"),
)
