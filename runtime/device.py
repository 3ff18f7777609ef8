"""What the engine asks of a device: one step at a time, arrays in, tokens out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

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
    """

    num_pages: int
    page_size: int
    max_tokens: int
    max_seqs: int

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step: write K and V of the batch's tokens, and sample a token for each logit row."""
        ...

    def close(self) -> None:
        """Free the device's threads and memory; it is not used afterwards."""
        ...
