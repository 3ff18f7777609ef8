"""Sampling parameters are checked when they are made, and the message says what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from warploom.errors import InvalidRequestError
from warploom.runtime.manifest import GenerationInfo
from warploom.runtime.sampling_params import SamplingParams

NAN, INF = math.nan, math.inf
BAD: dict[str, list[Any]] = {
    "temperature": [-0.1, 101, 1e-9, NAN, INF, -INF, "1", None, True],
    "top_k": [-1, 1 << 31, 1.5, None, NAN],
    "top_p": [0, -1, 1.01, NAN, INF, None],
    "min_p": [-0.1, 1.1, NAN],
    "repetition_penalty": [0, -1, 101, NAN, INF],
    "presence_penalty": [-2.1, 2.1, NAN],
    "frequency_penalty": [-2.1, 2.1, NAN],
    "seed": [-1, 1 << 64, 1.0],
    "stop": [[""], "", ["a"] * 17, "a" * 257, ["\ud800"], [b"a"], [1], 5, None, b"a"],
    "stop_token_ids": [[-1], [1.0], [True], list(range(129)), None, 5, "12"],
    "max_tokens": [0, -5, 1.5],
    "min_tokens": [-1, 257, None],
    "ignore_eos": [1, None],
    "logprobs": [-1, 21, True],
    "logit_bias": [{1: 101}, {1: NAN}, {1: INF}, {-1: 0}, {"1": 0}, dict.fromkeys(range(1025), 1.0), [1], None],
    "logits_processors": [5, [5], len, {"a": len}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=rf"parameter {name} is not valid\n  expected: (.|\n)*found: "):
        SamplingParams(**{name: value})


def test_good_values_are_kept() -> None:
    params = SamplingParams(
        temperature=0, top_k=50, top_p=1, seed=(1 << 64) - 1, stop=["a", "b", "a"], max_tokens=None,
        min_tokens=10_000, logprobs=20, logit_bias={3: -INF, 4: -100},
    )  # fmt: skip
    assert params.stop_strings == ("a", "b")
    assert SamplingParams(stop="é").stop_strings == ("é",)
    assert not params.uses_penalties
    assert SamplingParams(frequency_penalty=-1).uses_penalties


def test_parameters_cannot_change_under_the_engine() -> None:
    bias = {1: 1.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 2.0
    assert params.logit_bias == {1: 1.0}
    with pytest.raises(AttributeError):
        params.temperature = 2  # type: ignore[misc]


def test_generation_defaults_follow_hugging_face() -> None:
    greedy = SamplingParams.from_generation(GenerationInfo(temperature=0.7, top_k=20))
    assert greedy.temperature == 0
    sampled = SamplingParams.from_generation(
        GenerationInfo(do_sample=True, temperature=0.7, top_p=0.9, max_new_tokens=99)
    )
    assert (sampled.temperature, sampled.top_p, sampled.max_tokens) == (0.7, 0.9, 99)
