"""From the fields of a request to the `SamplingParams` of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.server.guides import requested_guide
from warploom.runtime.server.limits import Limits, RequestError
from warploom.runtime.server.requests import ChatRequest, CompletionRequest, GenerationRequest, unsupported

_COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens
_LEAST_TOP_P = 1e-6
# Fields by which a request says how to sample; one that has none of them is sampled as the model's authors say.
_CHOICES = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
)  # fmt: skip


def completion_params(request: CompletionRequest, defaults: SamplingParams, limits: Limits) -> SamplingParams:
    """Return the parameters of one prompt of `/v1/completions`.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    params = _common(request, defaults, limits)
    if request.echo and request.logprobs is not None and request.stream and params.n > 1:
        raise RequestError("n", "1, or no stream, when echo and logprobs are asked for", str(params.n))
    tokens = _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    echoed = request.logprobs if request.echo else None
    return replace(
        params, best_of=request.best_of, max_tokens=tokens, logprobs=request.logprobs, prompt_logprobs=echoed
    )


def chat_params(request: ChatRequest, defaults: SamplingParams, limits: Limits) -> SamplingParams:
    """Return the parameters of `/v1/chat/completions`; errors as `completion_params`."""
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs", "logprobs to be true as well")
    params = _common(request, defaults, limits)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return replace(params, max_tokens=request.max_completion_tokens or request.max_tokens, logprobs=logprobs)


def _common(request: GenerationRequest, defaults: SamplingParams, limits: Limits) -> SamplingParams:
    if name := unsupported(request):
        raise RequestError(name, "to be left out", what=f"The parameter {name} is not supported by this server")
    if request.stream_options and not request.stream:
        raise RequestError("stream_options", "stream to be true as well")
    given: dict[str, Any] = {
        "seed": None if request.seed is None else request.seed % (1 << 64),
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": request.ignore_eos,
        "min_tokens": request.min_tokens,
        "logit_bias": _logit_bias(request, limits),
        "bad_words": request.bad_words,
        "n": request.n,
        "guide": requested_guide(request, limits),
        **{name: getattr(request, name) for name in _CHOICES},
    }
    if request.top_p is not None:
        given["top_p"] = max(request.top_p, _LEAST_TOP_P)
    if request.top_k == -1:
        given["top_k"] = 0
    given = {name: value for name, value in given.items() if value is not None}
    base = SamplingParams() if any(name in given for name in _CHOICES) else replace(defaults, max_tokens=None)
    return replace(base, **given, max_tokens=None)


def _logit_bias(request: GenerationRequest, limits: Limits) -> dict[int, float] | None:
    """OpenAI's keys are token ids as JSON strings."""
    if request.logit_bias is None:
        return None
    limits.check("logit_bias", len(request.logit_bias), "logit_bias")
    for token in request.logit_bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise RequestError("logit_bias", "token ids as keys", token[:20])
    return {int(token): bias for token, bias in request.logit_bias.items()}
