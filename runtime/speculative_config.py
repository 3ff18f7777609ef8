"""What speculative decoding a user asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias

from warploom.errors import InvalidRequestError

SpeculativeMethod: TypeAlias = Literal["ngram", "draft_model"]
_METHODS: tuple[SpeculativeMethod, ...] = ("ngram", "draft_model")
MAX_DRAFTS = 15  # a sequence then brings at most 16 tokens to a step, as many as kernels for few tokens take well


@dataclass(frozen=True, slots=True)
class SpeculativeConfig:
    """Drafts of the next tokens, which a step verifies together. The fields have vLLM's names.

    What is generated stays the same: see `runtime/speculation.py`.

    Attributes:
        method: "ngram": what followed where the last tokens were seen before, in the prompt or the output;
            "draft_model": what a smaller model of the same vocabulary says. None: the latter if `model` is given.
        model: an artifact or its path, of a method "draft_model".
        num_speculative_tokens: most drafts that a request gets in a step.
        prompt_lookup_max, prompt_lookup_min: "ngram": how many of the last tokens must have been seen before; the
            longest match wins.
        disable_by_batch_size: nothing is drafted while more requests run. None: while they leave room for a draft
            each in a step that the device computes in about the time of one token; see `Device.cheap_tokens`.

    Raises:
        InvalidRequestError: on construction, if a value is not possible.
    """

    method: SpeculativeMethod | None = None
    model: str | os.PathLike[str] | None = None
    num_speculative_tokens: int = 5
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2
    disable_by_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.method is None:
            object.__setattr__(self, "method", "ngram" if self.model is None else "draft_model")
        _check(self.method in _METHODS, "method", " or ".join(map(repr, _METHODS)), self.method)
        if self.method == "draft_model":
            _check(self.model is not None, "model", "the artifact that drafts", self.model)
        else:
            _check(self.model is None, "model", "none, for the method 'ngram'", self.model)
        _check(0 < self.num_speculative_tokens <= MAX_DRAFTS, "num_speculative_tokens", f"1..{MAX_DRAFTS}",
               self.num_speculative_tokens)  # fmt: skip
        _check(self.prompt_lookup_max > 0, "prompt_lookup_max", "1 or more", self.prompt_lookup_max)
        _check(0 < self.prompt_lookup_min <= self.prompt_lookup_max, "prompt_lookup_min",
               f"1..{self.prompt_lookup_max}, prompt_lookup_max", self.prompt_lookup_min)  # fmt: skip
        least = self.disable_by_batch_size is None or self.disable_by_batch_size > 0
        _check(least, "disable_by_batch_size", "1 or more", self.disable_by_batch_size)

    @classmethod
    def named(cls, name: str, num_speculative_tokens: int | None = None) -> SpeculativeConfig:
        """Return what the command line means by a name: "ngram", or the path of an artifact that drafts."""
        model = None if name == "ngram" else name
        if num_speculative_tokens is None:
            return cls(model=model)
        return cls(model=model, num_speculative_tokens=num_speculative_tokens)


def _check(is_valid: bool, name: str, expected: str, found: object) -> None:
    if not is_valid:
        raise InvalidRequestError(
            f"The speculative decoding option {name} is not valid", expected=expected, found=repr(found)
        )
