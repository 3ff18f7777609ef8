"""From the fields of a request to the `SamplingParams` or `BeamSearchParams` of the engine."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.server.guides import guiding_field, requested_guide
from warploom.runtime.server.limits import Limits, RequestError
from warploom.runtime.server.requests import ChatRequest, CompletionRequest, GenerationRequest, unsupported

_COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens
_LEAST_TOP_P = 1e-6
# Fields by which a request says how to sample; one that has none of them is sampled as the model's authors say.
_CHOICES = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
)  # fmt: skip
_PLAIN = SamplingParams()
# Fields that mean something to beam search; the others of `SamplingParams` must not say anything.
_OF_BEAMS = {
    "n", "best_of", "max_tokens", "ignore_eos", "stop_token_ids", "logprobs", "prompt_logprobs", "skip_special_tokens",
    "seed",
}  # fmt: skip


def completion_params(
    request: CompletionRequest, defaults: SamplingParams, limits: Limits
) -> SamplingParams | BeamSearchParams:
    """Return the parameters of one prompt of `/v1/completions`.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    echoes = request.echo and request.logprobs is not None
    if echoes and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs", "to be left out: echo with logprobs tells the same")
    if echoes and request.stream and (request.n or 1) > 1:
        raise RequestError("n", "1, or no stream, when echo and logprobs are asked for", str(request.n))
    own: dict[str, Any] = {
        "best_of": request.best_of,
        "max_tokens": _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens,
        "logprobs": request.logprobs,
        "prompt_logprobs": request.logprobs if echoes else request.prompt_logprobs,
    }
    return _searched(request, _params(request, defaults, limits, own))


def chat_params(request: ChatRequest, defaults: SamplingParams, limits: Limits) -> SamplingParams | BeamSearchParams:
    """Return the parameters of `/v1/chat/completions`; errors as `completion_params`."""
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs", "logprobs to be true as well")
    own: dict[str, Any] = {
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "prompt_logprobs": request.prompt_logprobs,
    }
    return _searched(request, _params(request, defaults, limits, own))


def field_at_fault(param: str | None, request: GenerationRequest, limits: Limits) -> str | None:
    """Return how the request calls what the engine calls `param`."""
    match param:
        case "guide":
            return guiding_field(request, limits)
        case "prompt" if isinstance(request, ChatRequest):
            return "messages"
        case "beam_width":
            return "n" if request.n else "best_of"
    return param


def _searched(request: GenerationRequest, params: SamplingParams) -> SamplingParams | BeamSearchParams:
    """Return the parameters of a beam search with the same meaning, if the request asks for one."""
    if not request.use_beam_search:
        for name, neutral in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(request, name) not in (None, neutral):
                raise RequestError(name, "use_beam_search to be true as well")
        return params
    neutral_params = SamplingParams(temperature=params.temperature if params.temperature in (0, 1) else 1)
    for field in fields(SamplingParams):
        if field.name not in _OF_BEAMS and getattr(params, field.name) != getattr(neutral_params, field.name):
            name = "response_format" if field.name == "guide" else field.name
            raise RequestError(name, "to be left out with use_beam_search, which finds the likeliest answers")
    return BeamSearchParams(
        beam_width=params.num_made,
        n=params.n,
        max_tokens=params.max_tokens,
        length_penalty=1.0 if request.length_penalty is None else request.length_penalty,
        early_stopping=request.early_stopping or False,
        ignore_eos=params.ignore_eos,
        stop_token_ids=params.stop_token_ids,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        skip_special_tokens=params.skip_special_tokens,
    )


def _params(
    request: GenerationRequest, defaults: SamplingParams, limits: Limits, own: dict[str, Any]
) -> SamplingParams:
    """Return what both endpoints share, with `own` of one of them."""
    if name := unsupported(request):
        raise RequestError(name, "to be left out", what=f"The parameter {name} is not supported by this server")
    if request.stream_options and not request.stream:
        raise RequestError("stream_options", "stream to be true as well")
    if request.allowed_token_ids == []:
        raise RequestError("allowed_token_ids", "at least one token id, or to be left out", "none")
    if request.prompt_logprobs is not None and request.stream:
        raise RequestError("prompt_logprobs", "no stream")
    given: dict[str, Any] = {
        "seed": None if request.seed is None else request.seed % (1 << 64),
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": request.ignore_eos,
        "min_tokens": request.min_tokens,
        "logit_bias": _logit_bias(request, limits),
        "allowed_token_ids": request.allowed_token_ids,
        "bad_words": request.bad_words,
        "skip_special_tokens": request.skip_special_tokens,
        "n": request.n,
        "guide": requested_guide(request, limits),
        **{name: getattr(request, name) for name in _CHOICES},
    }
    if request.top_p is not None:
        given["top_p"] = max(request.top_p, _LEAST_TOP_P)
    if request.top_k == -1:
        given["top_k"] = 0
    given = {name: value for name, value in given.items() if value is not None}
    chooses = request.use_beam_search or any(name in given for name in _CHOICES)
    return replace(_PLAIN if chooses else defaults, **given, **own)


def _logit_bias(request: GenerationRequest, limits: Limits) -> dict[int, float] | None:
    """OpenAI's keys are token ids as JSON strings."""
    if request.logit_bias is None:
        return None
    limits.check("logit_bias", len(request.logit_bias), "logit_bias")
    for token in request.logit_bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise RequestError("logit_bias", "token ids as keys", token[:20])
    return {int(token): bias for token, bias in request.logit_bias.items()}
