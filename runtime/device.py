"""What the engine asks of a device: steps, one after the other, arrays in, tokens out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.step_batch import StepBatch


class StepOutput(NamedTuple):
    """The results of one step, copied out of the device. R rows, in the order of `logit_rows`.

    `top_tokens` and `top_logprobs` are None unless the batch asked for them.
    """

    tokens: NDArray[np.int32]  # [R]
    logprobs: NDArray[np.float32]  # [R], log-softmax of the raw logits at the token
    top_tokens: NDArray[np.int32] | None  # [R, 20], likeliest first
    top_logprobs: NDArray[np.float32] | None  # [R, 20]


class Device(Protocol):
    """Runs steps over a KV cache that it owns. Its limits hold for every batch it is given.

    Attributes:
        num_pages, page_size: capacity of the KV cache.
        max_tokens: most tokens of one step. max_seqs: most sequences of one step.
        max_rows: most rows of logits of one step, at least `max_seqs`.
        cheap_tokens: tokens of a step of decodes that take about the time of one, because it reads all weights anyway.
    """

    num_pages: int
    page_size: int
    max_tokens: int
    max_seqs: int
    max_rows: int
    cheap_tokens: int

    def launch(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Any:
        """Start one step, which writes K and V of the batch's tokens and samples a token for each logit row: `sample`
        of `forward`.

        Steps run in the order of their launches. Two may be unread at once.

        Args:
            token_sources: [T]: which row of the result of the last step that sampled is the token, or -1: it is in
                `token_ids`. None: all of them are.

        Returns:
            A ticket for `result`.
        """
        ...

    def forward(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Any:
        """Start the first part of a step, which computes logits. Unless all is given up, `sample` comes before any
        other step.

        Args:
            batch: whose `sampling` is not looked at. token_sources: see `launch`.

        Returns:
            What `sample` takes.
        """
        ...

    def sample(self, forwarded: Any, batch: StepBatch) -> Any:
        """Start the second part of a step, which samples.

        Args:
            batch: that of `forward`, with `sampling` unless it has no rows of logits.

        Returns:
            A ticket for `result`.
        """
        ...

    def result(self, ticket: Any) -> StepOutput:
        """Wait for a step and return what it gave; once per ticket, in the order of launches.

        Raises:
            Exception: the step failed.
        """
        ...

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step: `result` of `launch`."""
        ...

    def close(self) -> None:
        """Free the device's threads and memory; it is not used afterwards."""
        ...
