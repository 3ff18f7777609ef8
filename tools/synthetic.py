"""Steps made of random tokens, to measure and test devices without an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warploom.errors import EngineError
from warploom.runtime.device import Device
from warploom.runtime.sampler_inputs import SamplerInputs
from warploom.runtime.step_batch import StepBatch

I32 = NDArray[np.int32]


def ragged_batch(
    device: Device, vocab_size: int, new: Sequence[int], contexts: Sequence[int], *, temperature: float, seed: int
) -> StepBatch:
    """Return a step of several sequences with random tokens, on pages in random order.

    Args:
        new: tokens of each sequence that the step computes.
        contexts: tokens of each sequence that the cache holds after the step.

    Raises:
        EngineError: the cache has too few pages.
    """
    rng = np.random.default_rng(seed)
    size = device.page_size
    counts = [-(-context // size) for context in contexts]
    if sum(counts) > device.num_pages:
        raise EngineError(
            "The KV cache has too few pages for this step",
            expected=f"{sum(counts)} pages",
            found=str(device.num_pages),
            fix="use fewer sequences or shorter contexts",
        )
    pages = iter(rng.permutation(device.num_pages).astype(np.int32))
    table = np.zeros((len(new), max(counts)), np.int32)
    for row, count in zip(table, counts, strict=True):
        row[:count] = [next(pages) for _ in range(count)]
    starts = np.array([0, *np.cumsum(new)], np.int32)
    rows = np.repeat(np.arange(len(new)), new)
    last = np.array(contexts, np.int32)
    positions = np.arange(starts[-1], dtype=np.int32) - np.repeat(starts[1:] - last, new).astype(np.int32)
    return StepBatch(
        token_ids=rng.integers(0, vocab_size, int(starts[-1])).astype(np.int32),
        positions=positions,
        slots=table[rows, positions // size] * size + positions % size,
        page_table=table,
        query_start=starts,
        context_lens=last,
        logit_rows=starts[1:] - 1,
        sampling=plain_sampling(last, temperature, seed),
        top_logprobs=False,
    )


def plain_sampling(contexts: I32, temperature: float, seed: int) -> SamplerInputs:
    """Return sampling without filters, penalties and biases for rows with `contexts` tokens before the sampled one."""
    rows = len(contexts)
    ones, zeros = np.ones(rows, np.float32), np.zeros(rows, np.float32)
    return SamplerInputs(
        temperature=np.full(rows, temperature, np.float32),
        top_k=np.zeros(rows, np.int32),
        top_p=ones,
        min_p=zeros,
        repetition_penalty=ones,
        presence_penalty=zeros,
        frequency_penalty=zeros,
        seeds=np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.int32),
        sample_positions=contexts.copy(),
        penalty_tokens=np.full((rows, 1), -1, np.int32),
        penalty_counts=np.zeros((rows, 1), np.int32),
        bias_tokens=np.full((rows, 1), -1, np.int32),
        bias_values=np.zeros((rows, 1), np.float32),
        banned_bits=np.zeros((rows, 1), np.int32),
    )
