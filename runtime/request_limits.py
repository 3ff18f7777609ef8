"""What an engine takes: prompts and parameters are checked here, before anything of a request is queued."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from warploom.errors import InvalidRequestError
from warploom.runtime.guide import CompiledGuide, Guide, GuideCompiler
from warploom.runtime.request import Request
from warploom.runtime.sampling_params import MAX_LOGIT_BIAS, SamplingParams


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Makes requests out of what users give.

    Attributes:
        max_context: most tokens of one sequence, prompt and output.
        guides: compiles guides; None: there can be none.
    """

    vocab_size: int
    max_context: int
    eos_token_ids: frozenset[int]
    guides: GuideCompiler | None = None

    def make(
        self,
        request_id: int,
        prompt: Sequence[int],
        params: SamplingParams,
        bad_words: Sequence[Sequence[int]],
        priority: int,
        cache_salt: str,
        leader: Request | None,
    ) -> Request:
        """Return a request; see `Engine.new_request`."""
        self.check(prompt, params)
        room = self.max_context - len(prompt)
        own_ends = frozenset(params.stop_token_ids)
        request = Request(
            id=request_id,
            token_ids=list(prompt),
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            end_token_ids=own_ends if params.ignore_eos and not params.guide else own_ends | self.eos_token_ids,
            seed=random.getrandbits(64) if params.seed is None else params.seed,
            priority=priority,
            cache_salt=cache_salt,
            bad_words=tuple(map(tuple, bad_words)),
            leader=leader,
            guide=self._compiled(params.guide),
        )
        self._check_biases(request)
        return request

    def check(self, prompt: Sequence[int], params: SamplingParams) -> None:
        """Raise InvalidRequestError where `make` would, but for bad words."""
        self._check_prompt(prompt)
        self._check_token_ids("stop_token_ids", params.stop_token_ids)
        self._check_token_ids("logit_bias", list(params.logit_bias))
        self._check_token_ids("allowed_token_ids", params.allowed_token_ids)
        self._compiled(params.guide)
        room = self.max_context - len(prompt)
        if params.min_tokens > room:
            raise InvalidRequestError(
                "The sampling parameter min_tokens does not fit in the context",
                expected=f"at most {room} (context {self.max_context}, prompt {len(prompt)} tokens)",
                found=str(params.min_tokens),
                param="min_tokens",
            )

    def _compiled(self, guide: Guide | None) -> CompiledGuide | None:
        if guide is None:
            return None
        if self.guides is None:
            raise InvalidRequestError("This engine has no tokenizer, which guided decoding needs")
        return self.guides.compile(guide)

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise InvalidRequestError(
                "The prompt is empty", expected="at least one token", found="no tokens", param="prompt"
            )
        if len(prompt) >= self.max_context:
            raise InvalidRequestError(
                "The prompt is longer than the context",
                expected=f"at most {self.max_context - 1} tokens (context {self.max_context}, one for output)",
                found=f"{len(prompt)} tokens",
                fix="shorten the prompt",
                param="prompt",
            )
        self._check_token_ids("prompt", prompt)

    def _check_token_ids(self, name: str, token_ids: Sequence[int]) -> None:
        if token_ids and set(map(type, token_ids)) == {int} and 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            return
        for token in token_ids:
            if type(token) is not int or not 0 <= token < self.vocab_size:
                raise InvalidRequestError(
                    f"A token id in the {name} is not valid",
                    expected=f"integers in 0..{self.vocab_size - 1}",
                    found=repr(token)[:200],
                    param=name,
                )

    @staticmethod
    def _check_biases(request: Request) -> None:
        """Refuse what does not fit in the sampler's table of biases."""
        ends = request.end_token_ids if request.params.min_tokens else ()
        banned = {word[-1] for word in request.bad_words}
        if len({*request.params.logit_bias, *ends, *banned}) > MAX_LOGIT_BIAS:
            raise InvalidRequestError(
                "logit_bias, bad_words and end tokens are too many together",
                expected=f"at most {MAX_LOGIT_BIAS} tokens",
            )
