"""A GPU whose steps are timed while it serves: how long each worked, and how long it waited for the host before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.device import StepOutput
from warploom.runtime.step_batch import StepBatch


@dataclass(frozen=True)
class TimedStep:
    """One step in service.

    Attributes:
        num_seqs, num_tokens, num_rows: of the batch; rows of logits.
        busy: seconds on the GPU, from its copy of inputs to its last kernel.
        exposed: seconds that the GPU stood still before it because of the host.
        launch: seconds that the host took to enqueue it.
    """

    num_seqs: int
    num_tokens: int
    num_rows: int
    busy: float
    exposed: float
    launch: float


class _Part(NamedTuple):
    """Events around what was enqueued at once, and how long the host took for it."""

    begin: Any
    end: Any
    launch: float


class TimedDevice:
    """Wraps a `CudaDevice`; an event on its stream before and after every step costs about 5 us of the host's time.

    Attributes:
        steps: those whose results have been read.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.steps: list[TimedStep] = []
        self.num_pages, self.page_size = device.num_pages, device.page_size
        self.max_tokens, self.max_seqs, self.max_rows = device.max_tokens, device.max_seqs, device.max_rows
        self.cheap_tokens = device.cheap_tokens
        self._device = device
        self._under_way: deque[tuple[list[_Part], StepBatch]] = deque()
        self._last_end: Any = None
        self._spare: list[Any] = []

    def launch(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Any:
        """See `Device`."""
        return self._timed(batch, lambda: self._device.launch(batch, token_sources), is_first=True)

    def forward(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Any:
        """See `Device`."""
        return self._timed(batch, lambda: self._device.forward(batch, token_sources), is_first=True)

    def sample(self, forwarded: Any, batch: StepBatch) -> Any:
        """See `Device`."""
        return self._timed(batch, lambda: self._device.sample(forwarded, batch), is_first=False)

    def result(self, ticket: Any) -> StepOutput:
        """See `Device`."""
        output = self._device.result(ticket)
        parts, batch = self._under_way.popleft()
        self._device.driver.call("cuEventSynchronize", parts[-1].end)
        busy = exposed = 0.0
        for begin, end, launch in parts:
            gap = 0.0 if self._last_end is None else self._seconds(self._last_end, begin)
            busy += self._seconds(begin, end)
            # A GPU that has waited for the step to begin waits for its launch, too.
            exposed += gap + launch if gap > 1e-5 else 0.0
            self._spare += [begin] if self._last_end is None else [begin, self._last_end]
            self._last_end = end
        shape = len(batch.context_lens), len(batch.token_ids), len(batch.logit_rows)
        self.steps.append(TimedStep(*shape, busy, exposed, sum(part.launch for part in parts)))
        return output

    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Device`."""
        return self.result(self.launch(batch))

    def restart(self) -> None:
        """Forget what has been timed."""
        self.steps = []
        self._last_end = None

    def close(self) -> None:
        """See `Device`."""
        self._device.close()

    def _timed(self, batch: StepBatch, enqueue: Callable[[], Any], *, is_first: bool) -> Any:
        """Enqueue a step, or a part of one, between two events."""
        began = time.perf_counter()
        begin, end = self._event(), self._event()
        self._record(begin)
        ticket = enqueue()
        self._record(end)
        if is_first:
            self._under_way.append(([], batch))
        self._under_way[-1][0].append(_Part(begin, end, time.perf_counter() - began))
        return ticket

    def _event(self) -> Any:
        driver = self._device.driver
        return self._spare.pop() if self._spare else driver.call("cuEventCreate", 0)

    def _record(self, event: Any) -> None:
        driver = self._device.driver
        driver.make_current()
        driver.call("cuEventRecord", event, self._device.stream)

    def _seconds(self, begin: Any, end: Any) -> float:
        return float(self._device.driver.call("cuEventElapsedTime", begin, end)) / 1e3
