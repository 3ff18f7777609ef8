"""The sampler's arrays say of each request exactly what it asked for and what it has said so far."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerInputs, SamplerTable
from warploom.runtime.sampling_params import SamplingParams

I32 = NDArray[np.int32]


def admitted(
    table: SamplerTable,
    row: int,
    prompt: list[int],
    seed: int = 0,
    bad_words_ids: tuple[tuple[int, ...], ...] = (),
    **params: Any,
) -> Request:
    made = SamplingParams(**params)
    ends = frozenset({2, *made.stop_token_ids})
    request = Request(row, list(prompt), made, 100, ends, seed, bad_words=bad_words_ids, row=row)
    table.admit(request)
    return request


def say(table: SamplerTable, request: Request, tokens: list[int]) -> None:
    for token in tokens:
        request.token_ids.append(token)
        table.observe(request, token)


def gather(table: SamplerTable, *requests: Request) -> SamplerInputs:
    known = [len(request.token_ids) for request in requests]
    return table.gather(np.array([request.row for request in requests], np.int32), np.array(known, np.int32))


def test_each_row_has_its_own_parameters_in_the_order_asked_for() -> None:
    table = SamplerTable(4, 400)
    first = admitted(table, 3, [1, 2], temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, seed=(5 << 32) | 0xFFFFFFFF)
    second = admitted(table, 0, [1], repetition_penalty=1.5, presence_penalty=-1, frequency_penalty=2)
    inputs = gather(table, first, second)
    assert inputs.temperature.tolist() == [0.5, 1.0]
    assert inputs.top_k.tolist() == [7, 0]
    np.testing.assert_allclose(inputs.top_p, [0.9, 1.0])
    np.testing.assert_allclose(inputs.min_p, [0.1, 0.0])
    assert inputs.repetition_penalty.tolist() == [1.0, 1.5]
    assert inputs.presence_penalty.tolist() == [0.0, -1.0]
    assert inputs.frequency_penalty.tolist() == [0.0, 2.0]
    assert inputs.seeds.tolist() == [[-1, 5], [0, 0]]
    assert inputs.sample_positions.tolist() == [2, 1]
    assert all(array.flags.c_contiguous for array in inputs)


TOKENS = st.lists(st.integers(0, 300), max_size=150)


@given(TOKENS, TOKENS, st.booleans())
def test_history_counts_outputs_and_remembers_prompts(prompt: list[int], output: list[int], again: bool) -> None:
    table = SamplerTable(2, 400)
    request = admitted(table, 1, prompt, presence_penalty=1)
    say(table, request, output)
    if again:  # preempted and admitted once more
        table.admit(request)
    plain = admitted(table, 0, [9])
    inputs = gather(table, plain, request)
    counts = dict(zip(inputs.penalty_tokens[1].tolist(), inputs.penalty_counts[1].tolist(), strict=True))
    counts.pop(-1, None)
    assert counts == {token: output.count(token) for token in {*prompt, *output}}
    assert (inputs.penalty_tokens[0] == -1).all()
    assert inputs.penalty_tokens.shape[1] == max(1, len(counts))


def weights(tokens: I32, values: NDArray[Any]) -> dict[int, float]:
    """A row of tokens and what they have, without padding."""
    return {token: value for token, value in zip(tokens.tolist(), values.tolist(), strict=True) if token >= 0}


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 6))
def test_behind_drafts_is_as_if_they_had_been_said(output: list[int], drafts: list[int], min_tokens: int) -> None:
    table = SamplerTable(2, 400)
    params: dict[str, Any] = {"presence_penalty": 1, "min_tokens": min_tokens, "bad_words": ["x"]}
    request = admitted(table, 1, [4, 5], bad_words_ids=((1, 2), (3, 4, 5), (6,)), **params)
    plain = admitted(table, 0, [9])
    say(table, request, output)
    tails = [(), *[tuple(drafts[: number + 1]) for number in range(len(drafts))]]
    known = np.array([1] + [len(request.token_ids) + len(tail) for tail in tails], np.int32)
    rows = np.array([plain.row] + [request.row] * len(tails), np.int32)
    ahead = table.gather(rows, known, [(), *tails])
    for place, token in enumerate([*drafts, 0], 1):
        now = gather(table, request)
        assert now.sample_positions[0] == ahead.sample_positions[place]
        for tokens, values in (("penalty_tokens", "penalty_counts"), ("bias_tokens", "bias_values")):
            found = weights(getattr(ahead, tokens)[place], getattr(ahead, values)[place])
            assert found == weights(getattr(now, tokens)[0], getattr(now, values)[0])
        say(table, request, [token])


def test_end_tokens_are_banned_until_min_tokens() -> None:
    table = SamplerTable(1, 400)
    request = admitted(table, 0, [1], min_tokens=2, stop_token_ids=[5], logit_bias={5: 3.0, 6: -1.0})

    def bias() -> dict[int, float]:
        inputs = gather(table, request)
        return dict(zip(inputs.bias_tokens[0].tolist(), inputs.bias_values[0].tolist(), strict=True))

    early = {5: -np.inf, 6: -1.0, 2: -np.inf}
    assert bias() == early
    say(table, request, [7])
    assert bias() == early
    say(table, request, [7])
    assert bias() == {5: 3.0, 6: -1.0}


def test_a_new_request_in_a_row_inherits_nothing() -> None:
    table = SamplerTable(1, 400)
    say(table, admitted(table, 0, [1], presence_penalty=1, logit_bias={1: 1.0}, top_k=3), [4])
    inputs = gather(table, admitted(table, 0, [1]))
    assert inputs.penalty_tokens.tolist() == [[-1]]
    assert inputs.bias_tokens.tolist() == [[-1]]
    assert inputs.top_k.tolist() == [0]
