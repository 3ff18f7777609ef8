"""How long a step takes on the GPU, in all and kernel by kernel.

Kernels are timed inside a captured graph, with an event between any two: launched one by one from the host, the
short ones would be waiting for it. The events keep neighbours from overlapping (programmatic dependent launch), so
the sum of the kernels exceeds the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.graphs import capture
from warploom.runtime.cuda.program import FEED, SAMPLE, STEP
from warploom.runtime.cuda.step_shape import unpadded_dims
from warploom.runtime.cuda.weights import fill_with_noise
from warploom.runtime.manifest import RandomParam
from warploom.runtime.plan import Launch
from warploom.runtime.step_batch import StepBatch
from warploom.runtime.weights import numpy_dtype

_COPIED_BYTES = 1 << 29


class KernelTime(NamedTuple):
    """One launch of a step, and its median time.

    Attributes:
        dims: of the step, without padding: what it is needed for.
    """

    entry: str
    launch: Launch
    dims: Mapping[str, int]
    seconds: float


class StepTime(NamedTuple):
    """Median times of a step in seconds.

    Attributes:
        gpu: from its first kernel to its last, as it is served (a graph, or direct launches).
        pipelined: from step to step, each launched before the last one's tokens are read; copies and host included.
        alone: of `execute`, until the tokens are on the host.
    """

    gpu: float
    pipelined: float
    alone: float


def time_step(device: CudaDevice, batch: StepBatch, repeats: int, clock: Callable[[], float]) -> StepTime:
    """Time a step that is run again and again."""
    shape = device.upload(batch, None)
    names = step_entries(batch)
    alone = []
    for _ in range(repeats + 1):
        start = clock()
        device.execute(batch)
        alone.append(clock() - start)
    return StepTime(
        gpu=_gpu_seconds(device, lambda: device.enqueue(shape, names), repeats),
        pipelined=_pipelined_seconds(device, batch, repeats, clock),
        alone=median(alone[1:]),
    )


def time_kernels(device: CudaDevice, batch: StepBatch, repeats: int) -> list[KernelTime]:
    """Time every kernel of a step; the work is that of the batch without padding."""
    driver, program = device.driver, device.program
    shape = device.upload(batch, None)
    events = _Events(driver)
    names = step_entries(batch)

    def enqueue() -> None:
        events.record(device.stream)
        program.enqueue(names, shape.dims, after_each=lambda: events.record(device.stream))

    graph = capture(driver, device.stream, enqueue)
    rounds = []
    for _ in range(repeats + 1):
        driver.call("cuGraphLaunch", graph, device.stream)
        driver.call("cuStreamSynchronize", device.stream)
        rounds.append(events.intervals())
    driver.release("cuGraphExecDestroy", graph)
    events.destroy()
    medians = np.median(np.array(rounds[1:]), axis=0).tolist()
    launches = [(name, program.entries[name].launches[q.place]) for name in names for q in program.entries[name].queue]
    needed = {**shape.dims, **unpadded_dims(batch)}
    return [
        KernelTime(entry, launch, needed, seconds) for (entry, launch), seconds in zip(launches, medians, strict=True)
    ]


def step_entries(batch: StepBatch) -> list[str]:
    """The entries of a step, as a graph runs them."""
    return [FEED, STEP] if batch.sampling is None else [FEED, STEP, SAMPLE]


def fill_cache(device: CudaDevice) -> None:
    """Fill the KV cache with noise: what a kernel takes for data decides how much power it draws, and so its speed."""
    dtype = next(b.dtype for b in device.program.plan.entries[STEP].buffers if b.name == "kv")
    address, num_bytes = device.program.cache
    noise = RandomParam([num_bytes // numpy_dtype(dtype).itemsize], dtype, 0.0, 1.0, 0)
    fill_with_noise(device.driver, device.program.memory, {address: noise})


def copy_bandwidth(device: CudaDevice, repeats: int = 10) -> float:
    """Return the bytes per second, read and written, of a large copy on the GPU."""
    driver = device.driver
    source, target = (device.program.memory.take(f"copy {end}", _COPIED_BYTES) for end in ("source", "target"))
    noise = RandomParam([_COPIED_BYTES], "i8", 0.0, 127.0, 0)
    fill_with_noise(driver, device.program.memory, {source: noise})
    arguments = (target, source, _COPIED_BYTES, device.stream)
    seconds = _gpu_seconds(device, lambda: driver.call("cuMemcpyDtoDAsync", *arguments), repeats)
    for end in ("source", "target"):
        device.program.memory.give_back(f"copy {end}")
    return 2 * _COPIED_BYTES / seconds


def _gpu_seconds(device: CudaDevice, enqueue: Callable[[], None], repeats: int) -> float:
    """The median time that what `enqueue` puts on the stream takes there."""
    events = _Events(device.driver, external=False)
    times = []
    for _ in range(repeats + 1):
        events.restart()
        events.record(device.stream)
        enqueue()
        events.record(device.stream)
        device.driver.call("cuStreamSynchronize", device.stream)
        times += events.intervals()
    events.destroy()
    return median(times[1:])


def _pipelined_seconds(device: CudaDevice, batch: StepBatch, repeats: int, clock: Callable[[], float]) -> float:
    """The mean time from step to step, each launched before the last one is read."""
    start = clock()
    ticket = device.launch(batch)
    for _ in range(repeats - 1):
        following = device.launch(batch)
        device.result(ticket)
        ticket = following
    device.result(ticket)
    return (clock() - start) / repeats


class _Events:
    """Events recorded in a row, and the times between them.

    Args:
        external: they are recorded by nodes of the graph that is being captured.
    """

    def __init__(self, driver: Driver, external: bool = True) -> None:
        self._driver = driver
        self._flags = 1 if external else 0  # CU_EVENT_RECORD_EXTERNAL
        self._events: list[Any] = []
        self._used = 0

    def record(self, stream: Any) -> None:
        if self._used == len(self._events):
            self._events.append(self._driver.call("cuEventCreate", 0))
        self._driver.call("cuEventRecordWithFlags", self._events[self._used], stream, self._flags)
        self._used += 1

    def restart(self) -> None:
        self._used = 0

    def intervals(self) -> list[float]:
        """Seconds from each event to the next; they have happened."""
        pairs = pairwise(self._events[: self._used])
        return [self._driver.call("cuEventElapsedTime", first, second) / 1000 for first, second in pairs]

    def destroy(self) -> None:
        for event in self._events:
            self._driver.release("cuEventDestroy", event)
