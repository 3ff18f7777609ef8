"""From the scheduler's decision to the arrays of one `@step` call. Host time matters here: it is paid every step."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.kv_cache import KVCache
from warploom.runtime.sampler_inputs import SamplerInputs
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


class Layout(NamedTuple):
    """Where the tokens of a step sit, but not which they are: what is known of it before the last step ends.

    The first D sequences decode, one token each; then come chunks.
    """

    rows: I32  # [S], of the cache
    positions: I32  # [T]
    slots: I32  # [T]
    page_table: I32  # [S, P]
    query_start: I32  # [S + 1]
    context_lens: I32  # [S]


def lay_out(decodes: I32, computed: I32, chunks: list[Chunk], kv_cache: KVCache) -> Layout:
    """Lay out decodes and chunks, at least one in all, as one ragged batch.

    Args:
        decodes: [D] rows of the cache.
        computed: [D] tokens of them that are in the cache.
    """
    if not chunks:
        contexts = computed + np.int32(1)
        slots = _slots(kv_cache, decodes, computed)
        return Layout(
            decodes, computed, slots, _page_table(kv_cache, decodes, contexts), counting(len(decodes) + 1), contexts
        )
    ones = np.ones(len(decodes), np.int32)
    rows = np.concatenate([decodes, np.array([chunk.request.row for chunk in chunks], np.int32)])
    starts = np.concatenate([computed, np.array([chunk.start for chunk in chunks], np.int32)])
    counts = np.concatenate([ones, np.array([chunk.num_tokens for chunk in chunks], np.int32)])
    return lay_out_pieces(rows, starts, counts, kv_cache)


def lay_out_pieces(rows: I32, starts: I32, counts: I32, kv_cache: KVCache) -> Layout:
    """Lay out tokens `starts` .. `starts + counts` of the sequences in `rows` as one ragged batch; [S] each."""
    query_start = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    positions = counting(int(query_start[-1])) + np.repeat(starts - query_start[:-1], counts)
    contexts = starts + counts
    slots = _slots(kv_cache, np.repeat(rows, counts), positions)
    return Layout(rows, positions, slots, _page_table(kv_cache, rows, contexts), query_start, contexts)


@lru_cache(maxsize=4096)
def counting(n: int) -> I32:
    """Return 0 .. n-1, [n], which nobody may write (native code asks for arrays that could be)."""
    return np.arange(n, dtype=np.int32)


def _page_table(kv_cache: KVCache, rows: I32, contexts: I32) -> I32:
    return kv_cache.page_table[rows, : kv_cache.num_pages_for(int(contexts.max()))]


def _slots(kv_cache: KVCache, rows: I32, positions: I32) -> I32:
    """Return where the tokens at `positions` [T] of the sequences in `rows` [T] are kept, [T]."""
    pages, offsets = np.divmod(positions, np.int32(kv_cache.page_size))
    return kv_cache.page_table[rows, pages] * np.int32(kv_cache.page_size) + offsets
