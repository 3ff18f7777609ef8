"""Reading a Hugging Face config without overlooking a field that changes the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.errors import UnsupportedModelError

# Fields that say how a model was trained, stored or is driven, and nothing about one forward step.
IRRELEVANT = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "is_llama_config",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "rope_interleaved",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)


class ConfigReader:
    """Hands out config fields and remembers which were asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default if it is absent or null."""
        self._read.add(name)
        value = self._config.get(name)
        return default if value is None else value

    def integer(self, name: str) -> int:
        """A required positive integer."""
        value = self.get(name)
        if not isinstance(value, int) or value <= 0:
            raise UnsupportedModelError(
                f"config field {name} is unusable", expected="a positive integer", found=str(value)
            )
        return value

    def expect(self, name: str, *allowed: Any) -> None:
        """A field that, if present, must have one of the values that we implement."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise UnsupportedModelError(
                f"config field {name} has a value that we do not implement",
                expected=" or ".join(map(repr, allowed)),
                found=repr(value),
            )

    def finish(self) -> None:
        """Refuse fields that nobody read and that are not known to be irrelevant."""
        unread = sorted(n for n, v in self._config.items() if n not in self._read | IRRELEVANT and v is not None)
        if unread:
            raise UnsupportedModelError(
                "the config has fields that this family does not know",
                expected="fields that the family reads, or that do not change the model",
                found=", ".join(f"{n}={self._config[n]!r}" for n in unread),
                fix="if they do not change a forward step, add them to IRRELEVANT in frontend/models/config.py",
            )
