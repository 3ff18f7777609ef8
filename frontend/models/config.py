"""Reading a Hugging Face config without overlooking a field that changes the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from warploom.errors import UnsupportedModelError

# Fields that say how a model was trained, stored or is driven, and nothing about one forward step.
IRRELEVANT = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_pdrop",
        "auto_map",  # we bring our own code
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "dtype",
        "embd_pdrop",
        "embedding_dropout",
        "eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "residual_dropout",
        "return_dict",
        "rope_interleaved",
        "task_specific_params",
        "tokenizer_class",
        "quantization_config",  # the reader of the weights has seen to it
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)


MOST = (1 << 31) - 1  # of any size: dimensions are 32 bits in kernels


class ConfigReader:
    """Hands out config fields and remembers which were asked for; errors name the family that reads."""

    def __init__(self, config: Mapping[str, Any], family: str) -> None:
        self._config = config
        self._family = family
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the config states a field, be it null."""
        return name in self._config

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default if it is absent or null."""
        self._read.add(name)
        value = self._config.get(name)
        return default if value is None else value

    def stated(self, name: str, default: Any) -> Any:
        """A field, null where it is null; the default of transformers' config class only if it is absent."""
        self._read.add(name)
        return self._config.get(name, default)

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """An integer of at least `least`, required without a default."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST:
            raise self.refusal(name, "a positive integer" if least == 1 else f"an integer of at least {least}")
        return value

    def items(self, name: str) -> list[Any]:
        """What a field lists; nothing if it is absent or null."""
        value = self.get(name, [])
        if not isinstance(value, list | tuple):
            raise self.refusal(name, "a list")
        return list(value)

    def part(self, name: str) -> dict[str, Any]:
        """The fields inside a field; none if it is absent or null."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.refusal(name, "an object")
        return dict(value)

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number, required without a default."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.refusal(name, "a finite number")
        return float(value)

    def positive(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self.real(name, default)
        if value <= 0:
            raise self.refusal(name, "a number above 0")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, "true or false")
        return value

    def expect(self, name: str, *allowed: Any) -> Any:
        """A field that must have one of the values that we implement, the first of which is its default."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            nearest = get_close_matches(str(value), [str(a) for a in allowed], n=1, cutoff=0.0)
            raise self.refusal(name, " or ".join(map(repr, allowed)), f"use a model with {name}={nearest[0]}")
        return value

    def ignore(self, *names: str) -> None:
        """Fields that do not change a forward step of this family."""
        self._read.update(names)

    def refusal(self, name: str, expected: str, fix: str = "") -> UnsupportedModelError:
        """The error for a field whose value we do not implement."""
        return UnsupportedModelError(
            f"{self._family}: config field {name} has a value that is not supported",
            expected=expected,
            found=f"{name}={self._config.get(name)!r}",
            fix=fix or "use a model of this family with such a value",
        )

    def finish(self) -> None:
        """Refuse fields that nobody read and that are not known to be irrelevant."""
        unread = sorted(n for n, v in self._config.items() if n not in self._read | IRRELEVANT and v is not None)
        if unread:
            nearest = get_close_matches(unread[0], sorted(self._read), n=1)
            raise UnsupportedModelError(
                f"{self._family}: the config has fields that this family does not know",
                expected=f"fields that the family reads{f', such as {nearest[0]}' if nearest else ''}",
                found=", ".join(f"{n}={self._config[n]!r}" for n in unread),
                fix="if they do not change a forward step, add them to IRRELEVANT in frontend/models/config.py",
            )
