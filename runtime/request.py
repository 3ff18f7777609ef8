"""One request as the engine sees it: tokens in, tokens out, how far its cache has come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from warploom.runtime.sampling_params import SamplingParams

FinishReason: TypeAlias = Literal["stop", "length", "abort"]


@dataclass(eq=False, slots=True)
class Request:
    """The state of one request, owned by the engine.

    Attributes:
        id: also its place in the order of arrival.
        token_ids: prompt, then output.
        max_tokens: most output tokens, once the context's limit is applied.
        end_token_ids: every token that ends the output.
        seed: the given one, or one drawn for this request.
        row: its row of the KV cache and of the sampler's tables while it runs; else None.
        num_computed: tokens whose K and V are in the cache.
        queued_at, started_at: when it was made, and when its first step was planned (None: not yet); seconds of
            `time.perf_counter`.
        num_cached_tokens: prompt tokens that were found in the cache when it started.
    """

    id: int
    token_ids: list[int]
    params: SamplingParams
    max_tokens: int
    end_token_ids: frozenset[int]
    seed: int
    num_prompt_tokens: int = field(init=False)
    row: int | None = None
    num_computed: int = 0
    queued_at: float = field(default_factory=time.perf_counter)
    started_at: float | None = None
    num_cached_tokens: int = 0

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining(self) -> int:
        """Known tokens that the model has not seen yet: 1 while decoding, more while the prompt is prefilled."""
        return len(self.token_ids) - self.num_computed

    @property
    def max_cached_tokens(self) -> int:
        """Most tokens that it will ever hold in the cache; the last output token is never fed back."""
        return self.num_prompt_tokens + self.max_tokens - 1
