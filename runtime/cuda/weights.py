"""The parameters on the GPU: one allocation, filled from the artifact's files or with noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.errors import ArtifactError
from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import DeviceMemory, PinnedArray, aligned
from warploom.runtime.expr import evaluate
from warploom.runtime.manifest import RandomParam
from warploom.runtime.noise import BLOCK, noise_block, noise_start
from warploom.runtime.plan import Buffer, Plan
from warploom.runtime.weights import numpy_dtype

_CHUNK_BYTES = 32 << 20
_NUM_THREADS = 6  # that copy from the page cache into pinned memory; one alone is slower than the bus


def load_weights(driver: Driver, memory: DeviceMemory, artifact: Artifact, plan: Plan) -> dict[str, int]:
    """Bring all parameters that the plan names onto the GPU; return their addresses by name.

    Raises:
        ArtifactError: a parameter is missing or has another shape or dtype than the plan says.
        DeviceError: they do not fit in the memory.
    """
    params = {b.name: b for entry in plan.entries.values() for b in entry.buffers if b.kind == "param"}
    random = {name: info for name, info in artifact.manifest.random_params.items() if name in params}
    stored = {name: artifact.stored_params.get(name) for name in params if name not in random}
    for name, buffer in params.items():
        _check(buffer, random.get(name), stored.get(name))
    offsets, total = _place(params)
    base = memory.take("weights", total)
    addresses = {name: base + offset for name, offset in offsets.items()}
    upload(driver, {addresses[name]: array for name, array in stored.items() if array is not None})
    fill_with_noise(driver, memory, {addresses[name]: info for name, info in random.items()})
    return addresses


def _place(params: Mapping[str, Buffer]) -> tuple[dict[str, int], int]:
    """Byte offsets of the parameters, and the bytes of them all."""
    offsets: dict[str, int] = {}
    end = 0
    for name, buffer in params.items():
        offsets[name] = end
        end += aligned(math.prod(_shape(buffer)) * numpy_dtype(buffer.dtype).itemsize)
    return offsets, end


def _shape(buffer: Buffer) -> tuple[int, ...]:
    return tuple(evaluate(size, {}) for size in buffer.shape)


def _check(buffer: Buffer, random: RandomParam | None, stored: NDArray[Any] | None) -> None:
    expected = (_shape(buffer), numpy_dtype(buffer.dtype))
    if random is not None:
        found = (tuple(random.shape), numpy_dtype(random.dtype))
    else:
        found = ((), np.dtype(np.void)) if stored is None else (stored.shape, stored.dtype)
    if found != expected:
        raise ArtifactError(
            f"The parameter {buffer.name!r} does not fit the plan",
            expected=f"{buffer.dtype} {list(expected[0])}",
            found="nothing" if random is None and stored is None else f"{found[1]} {list(found[0])}",
            fix="compile the model again",
        )


class _Chunk(NamedTuple):
    address: int
    data: NDArray[np.uint8]


def _chunks(arrays: Mapping[int, NDArray[Any]]) -> Iterator[_Chunk]:
    for address, array in arrays.items():
        data = array.reshape(-1).view(np.uint8)
        for start in range(0, len(data), _CHUNK_BYTES):
            yield _Chunk(address + start, data[start : start + _CHUNK_BYTES])


class _Lane:
    """A pinned buffer and a stream, for one chunk at a time."""

    def __init__(self, driver: Driver, num_bytes: int, resources: ExitStack) -> None:
        self._driver = driver
        self._pinned = PinnedArray(driver, num_bytes)
        resources.callback(self._pinned.free)
        self._stream = driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        resources.callback(driver.release, "cuStreamDestroy", self._stream)

    def copy(self, chunk: _Chunk) -> None:
        """Copy a chunk to the GPU; returns when it is there."""
        np.copyto(self._pinned.array[: len(chunk.data)], chunk.data)
        self._driver.call("cuMemcpyHtoDAsync", chunk.address, self._pinned.address, len(chunk.data), self._stream)
        self._driver.call("cuStreamSynchronize", self._stream)


def upload(driver: Driver, arrays: Mapping[int, NDArray[Any]]) -> None:
    """Copy arrays to addresses: while one thread's chunk is on the bus, others read files into their buffers."""
    chunks = list(_chunks(arrays))
    if not chunks:
        return
    size = max(len(chunk.data) for chunk in chunks)
    with ExitStack() as resources:
        lanes: SimpleQueue[_Lane] = SimpleQueue()
        num_threads = min(_NUM_THREADS, len(chunks))
        for _ in range(num_threads):
            lanes.put(_Lane(driver, size, resources))

        def copy(chunk: _Chunk) -> None:
            lane = lanes.get()
            lane.copy(chunk)
            lanes.put(lane)

        threads = resources.enter_context(ThreadPoolExecutor(num_threads, initializer=driver.make_current))
        list(threads.map(copy, chunks))  # asks for the results, and so raises what a copy raised


def fill_with_noise(driver: Driver, memory: DeviceMemory, params: Mapping[int, RandomParam]) -> None:
    """Write random arrays to addresses: a block of noise for each distribution, repeated by copies on the GPU.

    They are there when this returns.
    """

    def distribution(item: tuple[int, RandomParam]) -> tuple[str, float, float]:
        return item[1].dtype, item[1].mean, item[1].scale

    for kind, items in groupby(sorted(params.items(), key=distribution), distribution):
        block = np.ascontiguousarray(noise_block(*kind))
        source = memory.take("noise", block.nbytes)
        driver.call("cuMemcpyHtoD", source, block.ctypes.data, block.nbytes)
        for address, param in items:
            _repeat(driver, source, address, param, block.itemsize)
        driver.call("cuCtxSynchronize")
        memory.give_back("noise")


def _repeat(driver: Driver, source: int, address: int, param: RandomParam, itemsize: int) -> None:
    """Write the stretch of the endless block at `source` that is `param`; the copies run on the default stream."""
    start, left = noise_start(param.seed), math.prod(param.shape)
    while left:
        size = min(left, BLOCK - start)
        driver.call("cuMemcpyDtoDAsync", address, source + start * itemsize, size * itemsize, 0)
        address, left, start = address + size * itemsize, left - size, 0
