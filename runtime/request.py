"""One request as the engine sees it: tokens in, tokens out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from warploom.runtime.draft_pace import DraftPace
from warploom.runtime.guide import CompiledGuide
from warploom.runtime.sampling_params import SamplingParams

if TYPE_CHECKING:
    from warploom.runtime.beam_engine import Search

FinishReason: TypeAlias = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities (natural, of the raw logits) at one position.

    Attributes:
        logprob: equal to that in `top`, to the last bit, if the token is there.
        top: the likeliest tokens with theirs, descending; as many as the request asked for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False, slots=True)
class Request:
    """The state of one request, owned by the engine.

    Attributes:
        id: of no other request.
        token_ids: prompt, then output as far as the host knows it.
        max_tokens: most output tokens, once the context's limit is applied.
        end_token_ids: every token that ends the output.
        seed: the given one, or one drawn for this request.
        priority: requests with a smaller one go first.
        cache_salt: only requests with the same one share pages.
        bad_words: token sequences that the output must not contain.
        leader: a request with the same prompt, whose pages this one waits for; None: it waits for nobody.
        guide: the form of its output.
        arrival: its place in the order of arrival: its id, or that of the search that it is a part of.
        search: the search that finds its output; None: its tokens are sampled.
        score: of an output that a search has found.
        is_done: nothing more is given to it.
        full_length: most tokens, prompt and output.
        row: its row of the KV cache and of all tables while it runs; else None.
        prompt_logprobs: those of the prompt, from its second token on, as far as they are computed.
        queued_at, started_at: when it was made, and when its first step was planned (None: not yet); seconds of
            `time.perf_counter`.
        num_cached_tokens: prompt tokens that were found in the cache when it started.
        num_preemptions: how often it lost its pages.
        pace: of speculative decoding, and what became of its drafts.
    """

    id: int
    token_ids: list[int]
    params: SamplingParams
    max_tokens: int
    end_token_ids: frozenset[int]
    seed: int
    priority: int = 0
    cache_salt: str = ""
    bad_words: tuple[tuple[int, ...], ...] = ()
    leader: Request | None = None
    guide: CompiledGuide | None = None
    arrival: int = -1
    row: int | None = None
    search: Search | None = field(init=False, default=None)
    score: float | None = field(init=False, default=None)
    is_done: bool = field(init=False, default=False)
    full_length: int = field(init=False)
    reports_logprobs: bool = field(init=False)
    num_prompt_tokens: int = field(init=False)
    prompt_logprobs: list[TokenLogprobs] = field(init=False, default_factory=list)
    queued_at: float = field(init=False, default_factory=time.perf_counter)
    started_at: float | None = field(init=False, default=None)
    num_cached_tokens: int = field(init=False, default=0)
    num_preemptions: int = field(init=False, default=0)
    pace: DraftPace = field(init=False, default_factory=DraftPace)

    def __post_init__(self) -> None:
        self.arrival = self.id if self.arrival < 0 else self.arrival
        self.num_prompt_tokens = len(self.token_ids)
        self.full_length = self.num_prompt_tokens + self.max_tokens
        self.reports_logprobs = self.params.logprobs is not None

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among all requests; the smallest goes first."""
        return self.priority, self.arrival, self.id

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far, as the host knows."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_cached_tokens(self) -> int:
        """Most tokens that it will ever hold in the cache; the last output token is never fed back."""
        return self.full_length - 1

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether some logits of its prompt have not been looked at."""
        wanted = self.params.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < self.num_prompt_tokens - 1
