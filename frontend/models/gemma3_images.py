"""The text part of Gemma 3 models that also see images (transformers `Gemma3ForConditionalGeneration`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models import gemma
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.registry import Family
from warploom.frontend.models.text_part import TextPart

# Defaults of transformers' Gemma3TextConfig: published models state what differs.
DEFAULTS = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
}


def parse(config: Mapping[str, Any]) -> TextPart:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Gemma 3 with images")
    text = DEFAULTS | read.part("text_config") | {"architectures": ["Gemma3ForCausalLM"]}
    read.expect("tie_word_embeddings", True)
    images = ("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "vision_config")
    read.ignore(*images)
    read.finish()
    ConfigReader(text, "Gemma 3 with images").expect("final_logit_softcapping", None)  # transformers caps none
    return TextPart(gemma.parse(text), "language_model")


FAMILY = Family(
    "Gemma 3 with images",
    ("Gemma3ForConditionalGeneration",),
    parse,
    ("text only: images are not read",),
    checked=("cpu", "cuda"),
)
