"""The dims that a step runs with: its own, or for decode steps those of a bucket, for which there is a graph.

A graph fixes grids and addresses, so a decode step (one token of every sequence) is padded to the next bucket of
rows and of page-table columns. Padding rows are sequences of one token that read page 0 and write nothing (slot -1):
valid work for every kernel. Rows of the page table are padded with page 0, which no kernel reads past the context.

A step that verifies drafts (a few tokens of every sequence, all sampled) runs in the same graphs: as many sequences as
tokens, of which the last are empty, and tokens of no sequence behind. Kernels look their sequences up in `query_start`
anyway.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.sampler_inputs import SamplerInputs
from warploom.runtime.step_batch import StepBatch

I32 = NDArray[np.int32]
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
_ROWS_STEP = 64  # beyond those
_LONGEST_RUN = 16  # tokens of a sequence: each reads those before it once more than kernels for prompts do
_FIRST_PAGES, _PAGES_FACTOR = 16, 4


class Buckets(NamedTuple):
    """Numbers of rows and of page-table columns that graphs are made for, rising; the last are the device's limits."""

    rows: tuple[int, ...]
    pages: tuple[int, ...]


class StepShape(NamedTuple):
    """The dims of all entries in one step.

    Attributes:
        bucket: rows and pages of the decode graph to run, or None.
        plain: sampling without history, biases, banned tokens and reports, which is part of the graph.
    """

    dims: dict[str, int]
    bucket: tuple[int, int] | None
    plain: bool


def make_buckets(max_seqs: int, max_pages: int) -> Buckets:
    """Return the buckets of a device with these limits."""
    rows = [*_ROWS, *range(_ROWS[-1] + _ROWS_STEP, max_seqs, _ROWS_STEP)]
    pages, bucket = [], _FIRST_PAGES
    while bucket < max_pages:
        pages.append(bucket)
        bucket *= _PAGES_FACTOR
    return Buckets((*(row for row in rows if row < max_seqs), max_seqs), (*pages, max_pages))


def shape_step(batch: StepBatch, buckets: Buckets | None, min_rows: int, num_pages: int) -> StepShape:
    """Return the shape to run `batch` in.

    Args:
        buckets: None: every step runs with its own dims.
        min_rows: fewest logit rows of `@step`.
        num_pages: of the cache.
    """
    dims, sampling = unpadded_dims(batch), batch.sampling
    num_tokens, num_seqs, num_rows, width = dims["T"], dims["S"], dims["R"], dims["P"]
    widths = sampling_dims(sampling)
    plain = sampling is not None and max(widths.values()) == 1 and not batch.top_logprobs
    dims["R"] = max(num_rows, min_rows)
    bucket = None
    fits = buckets is not None and num_tokens <= buckets.rows[-1] and width <= buckets.pages[-1]
    if buckets is not None and fits and (num_tokens == num_seqs or _verifies(batch)):
        rows, pages = _round_up(num_tokens, buckets.rows), _round_up(width, buckets.pages)
        dims, bucket = bucket_dims(rows, pages), (rows, pages)
    return StepShape({**dims, "C": num_pages, **widths}, bucket, plain)


def padded_starts(query_start: I32, rows: int) -> I32:
    """Return `query_start` of a step in a bucket of `rows` sequences, [rows + 1]."""
    num_seqs, num_tokens = len(query_start) - 1, query_start[-1]
    if num_tokens == num_seqs:
        return np.arange(rows + 1, dtype=np.int32)
    return np.concatenate([query_start, np.full(rows - num_seqs, num_tokens, np.int32)])


def _verifies(batch: StepBatch) -> bool:
    """Whether a step takes few tokens of every sequence and samples after each."""
    every = len(batch.logit_rows) == len(batch.token_ids)
    return every and int(np.diff(batch.query_start).max()) <= _LONGEST_RUN


def sampling_dims(sampling: SamplerInputs | None) -> dict[str, int]:
    """Return the dims of `@sample` but R; None: those of plain sampling."""
    if sampling is None:
        return {"H": 1, "B": 1, "M": 1}
    history, biases, banned = sampling.penalty_tokens, sampling.bias_tokens, sampling.banned_bits
    return {"H": history.shape[1], "B": biases.shape[1], "M": banned.shape[1]}


def unpadded_dims(batch: StepBatch) -> dict[str, int]:
    """Return the dims of `@step` that the batch itself has, but for C."""
    num_seqs, width = batch.page_table.shape
    return {"T": len(batch.token_ids), "S": num_seqs, "R": len(batch.logit_rows), "P": width}


def bucket_dims(rows: int, pages: int) -> dict[str, int]:
    """Return the dims of `@step` in a bucket, but for C."""
    return {"T": rows, "S": rows, "R": rows, "P": pages}


def _round_up(value: int, buckets: tuple[int, ...]) -> int:
    return buckets[bisect_left(buckets, value)]
