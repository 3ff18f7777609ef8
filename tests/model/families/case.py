"""A tiny checkpoint of a family: which transformers model, with what config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel

VOCAB = 99
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "initializer_range": 0.2,  # large, so that a mistake shows in the logits
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    """A variant of a family.

    Attributes:
        id: for people.
        model: class of transformers.
        config: class of transformers.
        fields: of the config.
        attention: transformers' implementation; eager is the only one that has everything.
    """

    id: str
    model: str
    config: str
    fields: Mapping[str, Any]
    attention: str = "eager"


def make_checkpoint(case: Case, folder: Path) -> PreTrainedModel:
    """A seeded random model in evaluation mode, saved to a folder with a tokenizer of bytes.

    Biases and norms are drawn too: transformers starts them at zero and one, where a lost one would not show.
    """
    torch.manual_seed(0)
    fields = dict(case.fields)
    if "text_config" in fields:  # of a model that also sees
        fields["text_config"] = COMMON | fields["text_config"]
    else:
        fields = COMMON | fields
    config = getattr(transformers, case.config)(**fields)
    config._attn_implementation = case.attention
    config._experts_implementation = "eager"  # the only one that takes any size
    model: PreTrainedModel = getattr(transformers, case.model)(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            torch.nn.init.normal_(parameter)
        elif parameter.ndim == 1 or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            torch.nn.init.normal_(buffer)
    model.eval()
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCAB]
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
