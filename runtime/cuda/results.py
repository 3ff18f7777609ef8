"""The results of steps: copied to pinned memory on a stream of their own, read when the host wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warploom.errors import EngineError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import PinnedArray
from warploom.runtime.weights import numpy_dtype

_ALIGNMENT = 64
DEPTH = 3  # steps whose results may be unread at once


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A result on the GPU; `row_shape` is that of one of at most `max_rows` rows."""

    name: str
    address: int
    dtype: str
    max_rows: int
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row_shape) * numpy_dtype(self.dtype).itemsize


class _Slot:
    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self.pinned = PinnedArray(driver, num_bytes)
        self.ready = driver.call("cuEventCreate", driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self.taken = False


@dataclass(frozen=True, slots=True)
class Pending:
    """Results on their way: which slot, the arrays in it, and how many rows of each."""

    slot: int
    arrays: tuple[DeviceArray, ...]
    num_rows: int


class ResultRing:
    """Pinned memory for the results of the last steps.

    Args:
        stream: the steps'.
        arrays: all results that a step can have.
    """

    def __init__(self, driver: Driver, stream: Any, arrays: Sequence[DeviceArray]) -> None:
        self._driver, self._stream = driver, stream
        self._copies = driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._computed = driver.call("cuEventCreate", driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self._offsets: dict[str, int] = {}
        end = 0
        for array in arrays:
            self._offsets[array.name] = end
            end += -(-array.max_rows * array.row_bytes // _ALIGNMENT) * _ALIGNMENT
        self._slots = [_Slot(driver, end) for _ in range(DEPTH)]
        self._last = 0

    def begin_step(self) -> None:
        """Make the steps' stream wait until the copies under way have read what the next step overwrites.

        Raises:
            EngineError: too many results have not been read.
        """
        if self._slots[(self._last + 1) % DEPTH].taken:
            raise EngineError("Too many steps are in flight", expected=f"at most {DEPTH}", fix="read results first")
        self._driver.call("cuStreamWaitEvent", self._stream, self._slots[self._last].ready, 0)

    def collect(self, arrays: Sequence[DeviceArray], num_rows: int) -> Pending:
        """Enqueue the copies of the first rows of what the stream has computed since `begin_step`."""
        index = (self._last + 1) % DEPTH
        slot = self._slots[index]
        slot.taken = True
        call = self._driver.call
        call("cuEventRecord", self._computed, self._stream)
        call("cuStreamWaitEvent", self._copies, self._computed, 0)
        for array in arrays:
            target = slot.pinned.address + self._offsets[array.name]
            call("cuMemcpyDtoHAsync", target, array.address, num_rows * array.row_bytes, self._copies)
        call("cuEventRecord", slot.ready, self._copies)
        self._last = index
        return Pending(index, tuple(arrays), num_rows)

    def read(self, pending: Pending) -> Mapping[str, NDArray[Any]]:
        """Wait for results and return copies of them by name; their place is free then."""
        slot = self._slots[pending.slot]
        slot.taken = False
        self._driver.call("cuEventSynchronize", slot.ready)
        return {array.name: self._view(slot, array, pending.num_rows).copy() for array in pending.arrays}

    def close(self) -> None:
        """Free the pinned memory and the stream."""
        for slot in self._slots:
            slot.pinned.free()
            self._driver.release("cuEventDestroy", slot.ready)
        self._slots.clear()
        self._driver.release("cuEventDestroy", self._computed)
        self._driver.release("cuStreamDestroy", self._copies)

    def _view(self, slot: _Slot, array: DeviceArray, num_rows: int) -> NDArray[Any]:
        shape = (num_rows, *array.row_shape)
        return np.ndarray(shape, numpy_dtype(array.dtype), slot.pinned.array, self._offsets[array.name])
