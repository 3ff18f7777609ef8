"""What a request may ask of sampling, checked when it is made: nothing out of range reaches the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from warploom.errors import InvalidRequestError
from warploom.runtime.guide import Guide
from warploom.runtime.manifest import GenerationInfo

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 128
MAX_N = 128

LogitsProcessor: TypeAlias = Callable[[Sequence[int], Sequence[int]], Mapping[int, float]]

_INT32 = (1 << 31) - 1
# Smallest and largest value of each plain number. Below 1e-3 a temperature is greedy in all but its overflows.
_FLOATS = {
    "temperature": (0, 100),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_INTEGERS = {
    "top_k": (0, _INT32),
    "seed": (0, (1 << 64) - 1),
    "max_tokens": (1, _INT32),
    "min_tokens": (0, _INT32),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
    "n": (1, MAX_N),
    "best_of": (1, MAX_N),
}
_MIN_TEMPERATURE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one request is sampled and when it ends.

    These defaults are fixed. A request that carries no `SamplingParams` at all uses the model authors' defaults
    (`from_generation`).

    Attributes:
        temperature: 0 is greedy; else 0.001..100.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the likeliest tokens whose probabilities reach this mass (1e-6..1).
        min_p: drop tokens less likely than this fraction of the likeliest one (0..1).
        repetition_penalty: divides positive and multiplies negative logits of the tokens in prompt and output
            (0.01..100).
        presence_penalty, frequency_penalty: subtracted from the logits of tokens in the output, once or once per
            occurrence (-2..2).
        seed: 0..2^64-1; the same seed, prompt and parameters give the same tokens in any batch. None: random.
        stop: strings that end the output, which is cut before the first of them.
        stop_token_ids: tokens that end the output, beside the model's end tokens.
        max_tokens: most output tokens; None: until the context is full.
        min_tokens: neither end tokens nor stop strings end the output before this many tokens.
        ignore_eos: the model's end tokens do not end the output.
        logprobs: report the log-probability of the chosen token and of this many likeliest ones (0..20).
        logit_bias: added to the logits of these tokens (-100..100, or -inf: never chosen).

        prompt_logprobs: the same as `logprobs`, of the prompt's tokens from the second one on.
        allowed_token_ids: no other tokens are chosen (also end tokens have to be among them); (): all may be.
        bad_words: texts that the output does not contain, as the tokenizer writes them (with and without a space in
            front).
        logits_processors: called on the host before every token with prompt and output so far, they return what is
            added to the logits of some tokens (-inf: never chosen). They cost their own time, and for all requests
            of the batch that a step cannot be launched before the last one's tokens have reached the host
            (about 0.2 ms a step on a GPU).
        guide: the form of the answer, which ends when it is complete (and `ignore_eos` means nothing): only tokens
            that fit are chosen. An answer that reaches `max_tokens` before is cut. It costs the same wait as
            `logits_processors`. Log-probabilities stay those of the raw logits.
        skip_special_tokens: special tokens do not show in the text; else by their names.
        n: answers to the prompt, which is computed once; each has its own seed, `seed` plus its index.
        best_of: make this many answers and give the `n` likeliest per token, the best first; None: `n`.

    Raises:
        InvalidRequestError: on construction, naming the field, what is allowed and what was given.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    max_tokens: int | None = 256
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    prompt_logprobs: int | None = None
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[str] = ()
    logits_processors: Sequence[LogitsProcessor] = field(default=(), hash=False)
    guide: Guide | None = None
    skip_special_tokens: bool = True
    n: int = 1
    best_of: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _FLOATS.items():
            check_float(name, getattr(self, name), low, high)
        for name, (low, high) in _INTEGERS.items():
            optional = name in ("seed", "max_tokens", "logprobs", "prompt_logprobs", "best_of")
            check_integer(name, getattr(self, name), low, high, optional)
        if 0 < self.temperature < _MIN_TEMPERATURE:
            raise invalid_parameter("temperature", f"0, or {_MIN_TEMPERATURE}..100", self.temperature)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise invalid_parameter("min_tokens", f"at most max_tokens, {self.max_tokens}", self.min_tokens)
        if self.best_of is not None and self.best_of < self.n:
            raise invalid_parameter("best_of", f"at least n, {self.n}", self.best_of)
        self._check_guide()
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise invalid_parameter(name, "True or False", getattr(self, name))
        object.__setattr__(self, "stop", _checked_texts("stop", self.stop, MAX_STOP_STRINGS))
        object.__setattr__(self, "bad_words", _checked_texts("bad_words", self.bad_words, MAX_BAD_WORDS))
        object.__setattr__(
            self, "stop_token_ids", _checked_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        )
        object.__setattr__(self, "allowed_token_ids", _checked_ids("allowed_token_ids", self.allowed_token_ids, _INT32))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        object.__setattr__(self, "logits_processors", _checked_processors(self.logits_processors))

    def _check_guide(self) -> None:
        if self.guide is None:
            return
        if not isinstance(self.guide, Guide):
            raise invalid_parameter("guide", "a Guide or None", self.guide)
        if self.min_tokens:
            raise invalid_parameter(
                "min_tokens", "0 with a guide, which says when the answer is complete", self.min_tokens
            )
        if self.allowed_token_ids:
            raise invalid_parameter("allowed_token_ids", "none with a guide, which says what is allowed", "both")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as it was normalized: a tuple of distinct strings."""
        return tuple(self.stop)

    @property
    def num_made(self) -> int:
        """Answers that have to be made, of which `n` are given."""
        return self.best_of or self.n

    @property
    def uses_penalties(self) -> bool:
        """Whether the token history of the request matters to its sampling."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @classmethod
    def from_generation(cls, info: GenerationInfo) -> SamplingParams:
        """Return the parameters that the model's authors recommend; as in Hugging Face, no sampling is greedy."""
        given = {
            "top_k": info.top_k,
            "top_p": info.top_p,
            "min_p": info.min_p,
            "repetition_penalty": info.repetition_penalty,
            "max_tokens": info.max_new_tokens,
            "temperature": info.temperature if info.do_sample else 0.0,
        }
        return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def one_each(params: SamplingParams) -> list[SamplingParams]:
    """Return the parameters of each answer that has to be made; the prompt is looked at once."""
    number = params.num_made
    if number == 1:
        return [replace(params, best_of=None)] if params.best_of else [params]
    logprobs = 0 if number > params.n and params.logprobs is None else params.logprobs  # to know the best
    return [
        replace(
            params,
            n=1,
            best_of=None,
            logprobs=logprobs,
            seed=None if params.seed is None else (params.seed + index) % (1 << 64),
            prompt_logprobs=None if index else params.prompt_logprobs,
        )
        for index in range(number)
    ]


def invalid_parameter(name: str, expected: str, found: object) -> InvalidRequestError:
    """Return the error of a parameter's value."""
    return InvalidRequestError(
        f"The sampling parameter {name} is not valid", expected=expected, found=repr(found)[:200], param=name
    )


def check_float(name: str, value: object, low: float, high: float) -> None:
    """Refuse what is no number in `low` .. `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # type: ignore[operator]  # NaN fails both comparisons
        raise invalid_parameter(name, f"a number in {low}..{high}", value)


def check_integer(name: str, value: object, low: int, high: int, optional: bool = False) -> None:
    """Refuse what is no integer in `low` .. `high`, nor None if it is optional."""
    if optional and value is None:
        return
    if type(value) is not int or not low <= value <= high:
        raise invalid_parameter(name, f"an integer in {low}..{high}" + (" or None" if optional else ""), value)


def _listed(name: str, values: object, expected: str) -> tuple[Any, ...]:
    """What a parameter lists; InvalidRequestError if it is no list."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise invalid_parameter(name, expected, values)
    return tuple(values)


def _checked_processors(processors: object) -> tuple[LogitsProcessor, ...]:
    expected = "a list of functions of prompt and output"
    listed = _listed("logits_processors", processors, expected)
    for one in listed:
        if not callable(one):
            raise invalid_parameter("logits_processors", expected, one)
    return listed


def _checked_texts(name: str, texts: str | Sequence[str], most: int) -> tuple[str, ...]:
    strings = (texts,) if isinstance(texts, str) else _listed(name, texts, "a string, or a list of strings")
    if len(strings) > most:
        raise invalid_parameter(name, f"at most {most} strings", len(strings))
    for string in strings:
        if not isinstance(string, str) or not string:
            raise invalid_parameter(name, "non-empty strings", string)
        try:
            size = len(string.encode())
        except UnicodeEncodeError as error:
            raise invalid_parameter(
                name, "valid Unicode text (no lone surrogates, as invalid UTF-8 gives)", string
            ) from error
        if size > MAX_STOP_BYTES:
            raise invalid_parameter(name, f"strings of at most {MAX_STOP_BYTES} bytes", f"{size} bytes")
    return tuple(dict.fromkeys(strings))


def _checked_ids(name: str, ids: Sequence[int], most: int) -> tuple[int, ...]:
    listed = _listed(name, ids, "a list of token ids")
    if len(listed) > most:
        raise invalid_parameter(name, f"at most {most} ids", len(listed))
    for token in listed:
        check_integer(name, token, 0, _INT32)
    return listed


def _checked_bias(bias: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise invalid_parameter("logit_bias", "a number by token id", bias)
    if len(bias) > MAX_LOGIT_BIAS:
        raise invalid_parameter("logit_bias", f"at most {MAX_LOGIT_BIAS} tokens", len(bias))
    for token, value in bias.items():
        check_integer("logit_bias", token, 0, _INT32)
        if value != -math.inf:
            check_float("logit_bias", value, -100, 100)
    return dict(bias)
