"""The text part of Gemma 3 models that also see images (transformers `Gemma3ForConditionalGeneration`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir

from warploom.frontend.models import gemma
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.registry import Family, Geometry
from warploom.frontend.models.weights import Weights

# Defaults of transformers' Gemma3TextConfig: published models state what differs.
DEFAULTS = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
}


@dataclass(frozen=True)
class TextPart:
    """A decoder that is one module of a larger model."""

    decoder: Decoder
    module: str

    @property
    def geometry(self) -> Geometry:
        """Of the decoder."""
        return self.decoder.geometry

    def forward(self, weights: Weights, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
        """One step of the decoder."""
        return self.decoder.forward(weights / self.module, step)


def parse(config: Mapping[str, Any]) -> TextPart:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "Gemma 3 with images")
    text = DEFAULTS | dict(read.get("text_config") or {}) | {"architectures": ["Gemma3ForCausalLM"]}
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
