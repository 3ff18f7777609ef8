"""Outputs of several steps, handed out together, are the same text, tokens and end as one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warploom.runtime.detokenizer import Detokenizer
from warploom.runtime.output import Delta, OutputText, merged
from warploom.runtime.request import FinishReason, Request, TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.step_outputs import RequestOutput

END = 2


def one_byte(token: int) -> bytes:
    return b"" if token == END else bytes([token])


def outputs_of(tokens: list[int], finish: FinishReason | None, logprobs: bool) -> list[RequestOutput]:
    outputs = [
        RequestOutput(0, (token,), (TokenLogprobs(token, -1.0, ()),) if logprobs else None, None, None)
        for token in tokens
    ]
    if finish == "abort":
        return [*outputs, RequestOutput(0, (), None, "abort", "why")]
    return [*outputs[:-1], outputs[-1]._replace(finish_reason=finish, stop_reason=END if finish == "stop" else None)]


def read(groups: list[list[RequestOutput]], params: SamplingParams) -> Delta:
    text = OutputText(Detokenizer(one_byte, 0), Request(0, [5], params, 100, frozenset([END]), 0))
    whole: Delta | None = None
    for group in groups:
        delta = text.push_all(group)
        whole = delta if whole is None else merged(whole, delta)
        if delta.finish_reason:
            break
    assert whole is not None
    return whole


@given(
    st.lists(st.sampled_from([97, 98, 99, 0xC3, 0xA9]), min_size=1, max_size=12),
    st.sampled_from(["stop", "length", "abort"]),
    st.lists(st.integers(1, 4), min_size=12, max_size=12),
    st.sampled_from([(), ("bc",), ("aa", "cab")]),
    st.booleans(),
    st.integers(0, 5),
)
def test_groups_of_outputs_are_their_outputs(
    tokens: list[int], finish: FinishReason, sizes: list[int], stop: tuple[str, ...], logprobs: bool, least: int
) -> None:
    params = SamplingParams(stop=stop, logprobs=0 if logprobs else None, min_tokens=least)
    outputs = outputs_of([*tokens, END] if finish == "stop" else tokens, finish, logprobs)
    groups, rest = [], list(outputs)
    for size in sizes:
        groups.append(rest[:size])
        rest = rest[size:]
    together = read([group for group in groups if group], params)
    single = read([[output] for output in outputs], params)
    assert together.text == single.text
    assert together.token_ids == single.token_ids
    assert together.logprobs == single.logprobs
    assert (together.finish_reason, together.stop_reason) == (single.finish_reason, single.stop_reason)
