"""Teacher forcing: our logits at every position of given tokens, cut into steps as the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import numpy as np

from warploom.runtime.artifact import Artifact
from warploom.runtime.cpu import CpuDevice
from warploom.runtime.step_batch import StepBatch


class Teacher:
    """One sequence on a device, its pages handed out backwards so that a wrong page shows."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        self.device = CpuDevice(artifact, threads=threads)

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.device.close()

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> np.ndarray:
        """[len(ids), vocab], computed in steps of the given sizes."""
        assert sum(chunks) == len(ids)
        ends = np.cumsum(chunks)
        steps = [self._step(np.array(ids[e - n : e], np.int32), int(e - n)) for e, n in zip(ends, chunks, strict=True)]
        return np.concatenate(steps)

    def _step(self, tokens: np.ndarray, start: int) -> np.ndarray:
        size, count = self.device.page_size, len(tokens)
        context = start + count
        pages = self.device.num_pages - 1 - np.arange(-(-context // size), dtype=np.int32)
        positions = np.arange(start, context, dtype=np.int32)
        batch = StepBatch(
            token_ids=tokens,
            positions=positions,
            slots=(pages[positions // size] * size + positions % size).astype(np.int32),
            page_table=pages[None],
            query_start=np.array([0, count], np.int32),
            context_lens=np.array([context], np.int32),
            logit_rows=np.arange(count, dtype=np.int32),
            sampling=None,
            top_logprobs=False,
        )
        return self.device.logits(batch)
