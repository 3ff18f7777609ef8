"""How far the logits of a decode step's row move with the rows beside it: by rounding alone, if all is right.

Over a cache of noise a model with real weights is chaotic: a bit of rounding becomes another answer. So the same is
asked over a cache that the model has filled itself, and there the move has to be small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.profile import fill_cache
from warploom.runtime.step_batch import StepBatch
from warploom.tools.synthetic import ragged_batch

CONTEXT = 40


class Moved(NamedTuple):
    """Largest change of a logit, in units of the spread of its row's logits.

    Attributes:
        noise: over a cache of noise. text: over one that the model has filled.
    """

    noise: float
    text: float


def neighbours(artifact: Artifact, device: CudaDevice, rows: int = 8) -> Moved:
    """Compare every row of a decode step with the same row alone."""
    vocab, context = artifact.manifest.vocab_size, min(CONTEXT, artifact.manifest.max_context)
    batch = ragged_batch(device, vocab, [1] * rows, [context] * rows, temperature=0, seed=1)
    fill_cache(device)
    noise = _largest_change(device, batch)
    for row in range(rows):
        _fill(device, batch.page_table[row], context - 1, vocab, seed=row)
    return Moved(noise, _largest_change(device, batch))


def _largest_change(device: CudaDevice, batch: StepBatch) -> float:
    together = device.logits(batch)
    alone = np.concatenate([device.logits(_row(batch, row)) for row in range(len(together))])
    return float((np.abs(together - alone).max(-1) / alone.std(-1)).max())


def _row(batch: StepBatch, row: int) -> StepBatch:
    """One row of a decode step as a step of its own."""
    return batch._replace(
        **{name: getattr(batch, name)[row : row + 1] for name in ("token_ids", "positions", "slots", "context_lens")},
        page_table=batch.page_table[row : row + 1],
        query_start=np.array([0, 1], np.int32),
        logit_rows=np.array([0], np.int32),
        sampling=None,
    )


def _fill(device: CudaDevice, pages: NDArray[np.int32], length: int, vocab: int, seed: int) -> None:
    """Run `length` random tokens of one sequence."""
    tokens = np.random.default_rng(seed).integers(0, vocab, length).astype(np.int32)
    for start in range(0, length, device.max_tokens):
        positions = np.arange(start, min(start + device.max_tokens, length), dtype=np.int32)
        device.execute(
            StepBatch(
                token_ids=tokens[positions],
                positions=positions,
                slots=pages[positions // device.page_size] * device.page_size + positions % device.page_size,
                page_table=pages[None],
                query_start=np.array([0, len(positions)], np.int32),
                context_lens=positions[-1:] + 1,
                logit_rows=np.zeros(0, np.int32),
                sampling=None,
                top_logprobs=False,
            )
        )
