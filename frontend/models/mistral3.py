"""The text part of Mistral Small 3.1 and later (transformers `Mistral3ForConditionalGeneration`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models import mistral
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.registry import Family
from warploom.frontend.models.text_part import TextPart

# Defaults of transformers' Mistral3Config for its text: published models state what differs.
DEFAULTS = {
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e9,
    "sliding_window": None,
    "vocab_size": 131072,
}


def parse(config: Mapping[str, Any]) -> TextPart:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Mistral 3")
    text = DEFAULTS | read.part("text_config") | {"architectures": ["MistralForCausalLM"]}
    ConfigReader(text, "Mistral 3").expect("model_type", "mistral")
    tied = read.flag("tie_word_embeddings", True)  # the default, of published models that have heads of their own too
    read.ignore("image_token_id", "image_token_index", "multimodal_projector_bias", "projector_hidden_act")
    read.ignore("spatial_merge_size", "vision_config", "vision_feature_layer")
    read.finish()
    return TextPart(mistral.parse({**text, "tie_word_embeddings": False}), "language_model", head_may_miss=tied)


FAMILY = Family(
    "Mistral 3",
    ("Mistral3ForConditionalGeneration",),
    parse,
    ("text only: images are not read",),
    checked=("cpu", "cuda"),
)
