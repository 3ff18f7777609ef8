"""From the scheduler's decision to the arrays of one `@step` call. Host time matters here: it is paid every step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.kv_cache import KVCache
from warploom.runtime.sampler_inputs import SamplerInputs, SamplerTable
from warploom.runtime.scheduler import Chunk

I32 = NDArray[np.int32]


class StepBatch(NamedTuple):
    """What a device needs for one step. T tokens, S sequences, R sampled rows, P pages of the longest sequence.

    The arrays have the names of `@step`'s arguments. `sampling` is None when R is 0 (only prompt chunks that do not
    reach their end). `top_logprobs`: whether some request wants the likeliest tokens reported.
    """

    token_ids: I32  # [T]
    positions: I32  # [T]
    slots: I32  # [T], page * page_size + offset: where each token's K and V go
    page_table: I32  # [S, P], unused entries 0
    query_start: I32  # [S + 1]
    context_lens: I32  # [S], tokens in the cache after this step
    logit_rows: I32  # [R], indices into T
    sampling: SamplerInputs | None
    top_logprobs: bool


def build_step_batch(chunks: Sequence[Chunk], kv_cache: KVCache, sampler: SamplerTable) -> StepBatch:
    """Lay out `chunks` (at least one), in their order, as one ragged batch."""
    rows = np.array([chunk.request.row for chunk in chunks], np.int32)
    counts = [chunk.num_tokens for chunk in chunks]
    computed = np.array([chunk.request.num_computed for chunk in chunks], np.int32)
    query_start = np.array([0, *accumulate(counts)], np.int32)
    context_lens = computed + np.array(counts, np.int32)

    token_rows, positions = rows, computed  # when every sequence decodes, T = S
    if query_start[-1] != len(chunks):
        token_rows = np.repeat(rows, counts)
        positions = np.arange(query_start[-1], dtype=np.int32) + np.repeat(computed - query_start[:-1], counts)

    sampled = [index for index, chunk in enumerate(chunks) if chunk.samples]
    requests = [chunks[index].request for index in sampled]
    everything = len(sampled) == len(chunks)
    return StepBatch(
        token_ids=_token_ids(chunks),
        positions=positions,
        slots=_slots(kv_cache, token_rows, positions),
        page_table=kv_cache.page_table[rows, : kv_cache.num_pages_for(max(context_lens.tolist()))],
        query_start=query_start,
        context_lens=context_lens,
        logit_rows=query_start[1:] - 1 if everything else query_start[1:][sampled] - 1,
        sampling=sampler.gather(requests, rows if everything else rows[sampled]) if sampled else None,
        top_logprobs=any(request.params.logprobs for request in requests),
    )


def _token_ids(chunks: Sequence[Chunk]) -> I32:
    """Return the tokens of all chunks, joined, [T]."""
    tokens: list[int] = []
    for request, num_tokens in chunks:
        tokens += request.token_ids[request.num_computed : request.num_computed + num_tokens]
    return np.array(tokens, np.int32)


def _slots(kv_cache: KVCache, rows: I32, positions: I32) -> I32:
    """Return where the tokens at `positions` [T] of the sequences in `rows` [T] are kept, [T]."""
    size = kv_cache.page_size
    return kv_cache.page_table[rows, positions // size] * size + positions % size
