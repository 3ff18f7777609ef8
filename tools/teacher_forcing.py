"""Teacher forcing: the log-probability that a model gives to each token of a text it did not write.

The device is driven directly, without scheduler or sampler: one sequence, whole logits rows, and a log-softmax in
float64 on the host. So the figures depend on the compiled step alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions, open_device
from warploom.runtime.step_batch import StepBatch
from warploom.runtime.tokenizer import Tokenizer

# Logits of one step: 256 rows of a vocabulary of 128k are 131 MB.
_MAX_ROWS = 256


class LogitsDevice(Device, Protocol):
    """A device that also gives the logits themselves, as all devices of an artifact do."""

    def logits(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return the logits of the batch's `logit_rows`, [R, vocab_size]."""
        ...


class TokenScores(NamedTuple):
    """What the model says of n tokens, each after those before it."""

    logprobs: NDArray[np.float64]  # [n], natural
    greedy: NDArray[np.bool_]  # [n], whether no other token is likelier


class Teacher:
    """An artifact that scores given texts.

    Args:
        artifact: an artifact or its path.
        device: "cpu" or "cuda"; None: as `LLM` chooses.
        threads: CPU: worker threads; None: one per core.
        max_context: most tokens of one sequence; None: the model's own limit.

    Raises:
        ArtifactError, DeviceError, EngineError: the artifact is unusable here; see `LLM`.
        InvalidRequestError: `max_context` is beyond the model's.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str],
        *,
        device: DeviceKind | LogitsDevice | None = None,
        threads: int | None = None,
        max_context: int | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else load(artifact)
        self.tokenizer = Tokenizer.from_artifact(self.artifact)
        manifest = self.artifact.manifest
        self.max_context = manifest.max_context if max_context is None else max_context
        if not 2 <= self.max_context <= manifest.max_context:
            raise InvalidRequestError(
                "The context to evaluate in is not possible",
                expected=f"2..{manifest.max_context} tokens",
                found=str(max_context),
            )
        if device is None or isinstance(device, str):
            caches = [target.kv for target in manifest.targets.values()]
            kv_bytes = max(kv.pages(self.max_context) * kv.bytes_per_page for kv in caches)
            options = DeviceOptions(threads=threads, kv_bytes=kv_bytes)
            device = cast(LogitsDevice, open_device(self.artifact, device, options))
        self._device = device
        self.max_context = min(self.max_context, device.num_pages * device.page_size)

    def __enter__(self) -> Teacher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the device."""
        self._device.close()

    def score(self, token_ids: Sequence[int], start: int = 1) -> TokenScores:
        """Score `token_ids[start:]`, each after all tokens before it.

        Args:
            token_ids: at most `max_context`. start: at least 1, since the first token follows nothing.

        Raises:
            InvalidRequestError: the tokens are too many, or there is none to score.
        """
        if not 1 <= start < len(token_ids) <= self.max_context:
            raise InvalidRequestError(
                "The tokens cannot be scored",
                expected=f"2..{self.max_context} tokens, the first scored one not at the very beginning",
                found=f"{len(token_ids)} tokens, scored from {start} on",
            )
        ids = np.array(token_ids, np.int32)
        size = min(self._device.max_tokens, self._device.max_rows, _MAX_ROWS)
        last = len(ids) - 1
        scores = [self._chunk(ids, begin, min(begin + size, last), start) for begin in range(0, last, size)]
        return TokenScores(*(np.concatenate(parts) for parts in zip(*scores, strict=True)))

    def _chunk(self, ids: NDArray[np.int32], begin: int, end: int, start: int) -> TokenScores:
        """Compute the tokens begin..end, and score those among begin+1..end+1 that are at `start` or later."""
        first = max(begin, min(end, start - 1))
        rows = np.arange(first - begin, end - begin, dtype=np.int32)
        return _scores(self._device.logits(self._batch(ids, begin, end, rows)), ids[first + 1 : end + 1])

    def _batch(self, ids: NDArray[np.int32], begin: int, end: int, rows: NDArray[np.int32]) -> StepBatch:
        """One sequence in the first pages of the cache, in order."""
        positions = np.arange(begin, end, dtype=np.int32)
        num_pages = -(-end // self._device.page_size)
        return StepBatch(
            token_ids=ids[begin:end],
            positions=positions,
            slots=positions,
            page_table=np.arange(num_pages, dtype=np.int32)[None],
            query_start=np.array([0, end - begin], np.int32),
            context_lens=np.array([end], np.int32),
            logit_rows=rows,
            sampling=None,
            top_logprobs=False,
        )


def _scores(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> TokenScores:
    """Log-softmax of rows [n, vocab_size] at `targets` [n]."""
    rows = np.arange(len(targets))
    greatest = logits.max(axis=1)
    total = np.exp(logits - greatest[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[rows, targets]
    logprobs = (chosen - greatest).astype(np.float64) - np.log(total)
    return TokenScores(logprobs, chosen == greatest)
