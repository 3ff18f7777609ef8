"""`@feed`: its kernel in Triton's interpreter, and its entry."""

from __future__ import annotations

import numpy as np

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.feed import FeedSpec, feed_entry
from warploom.runtime.plan import DimRange


def test_tokens_of_the_last_step_replace_those_that_the_host_did_not_know() -> None:
    rng = np.random.default_rng(1)
    for num_tokens in (1, 255, 256, 600):
        token_ids = rng.integers(0, 1000, num_tokens).astype(np.int32)
        sources = rng.integers(-1, 7, num_tokens).astype(np.int32)
        tokens = rng.integers(2000, 3000, 7).astype(np.int32)
        guard = np.full(100, -7, np.int32)
        result = np.concatenate([token_ids, guard])
        run_kernel(FeedSpec(pdl=False), [result, sources, tokens], {"T": num_tokens})
        np.testing.assert_array_equal(result[:num_tokens], np.where(sources >= 0, tokens[sources], token_ids))
        np.testing.assert_array_equal(result[num_tokens:], guard)


def test_entry_updates_the_token_ids_of_the_step_in_place() -> None:
    entry = feed_entry(FeedSpec(pdl=True), DimRange(1, 512), 64)
    (result,) = (buffer for buffer in entry.buffers if buffer.kind == "result")
    assert (result.name, result.aliases) == ("token_ids", "token_ids")
    (launch,) = entry.launches
    assert launch.grid == ["(T + 255) // 256", 1, 1]
