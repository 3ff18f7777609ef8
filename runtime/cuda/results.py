"""The results of steps: copied to pinned memory on a stream of their own, read when the host wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.errors import EngineError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import PinnedArray

_ALIGNMENT = 64
_MAX_GAP = 4096  # bytes: to copy as many takes less time than another copy
DEPTH = 3  # steps whose results may be unread at once


class DeviceArray(NamedTuple):
    """A result on the GPU; `row_shape` is that of one of at most `max_rows` rows."""

    name: str
    address: int
    dtype: np.dtype[Any]
    max_rows: int
    row_shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return self.max_rows * prod(self.row_shape) * self.dtype.itemsize


class _Copy(NamedTuple):
    """One copy to the host: results that lie close together on the GPU, and what is between them."""

    offset: int  # in the slot
    address: int
    num_bytes: int


class _Slot:
    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self.pinned = PinnedArray(driver, num_bytes)
        self.ready = driver.call("cuEventCreate", driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self.taken = False


class Pending(NamedTuple):
    """Results on their way: which slot, of which entries, and how many rows of each."""

    slot: int
    entries: tuple[str, ...]
    num_rows: int


class ResultRing:
    """Pinned memory for the results of the last steps.

    Args:
        stream: the steps'.
        results: all results that a step can have, by the entry that gives them.
    """

    def __init__(self, driver: Driver, stream: Any, results: Mapping[str, Sequence[DeviceArray]]) -> None:
        self._driver, self._stream, self._results = driver, stream, results
        self._copying = driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._computed = driver.call("cuEventCreate", driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self._copies: dict[str, list[_Copy]] = {}
        self._offsets: dict[str, int] = {}
        end = 0
        for entry, arrays in results.items():
            copies = self._copies[entry] = _plan_copies(arrays, end)
            end = max(copy.offset + copy.num_bytes for copy in copies)
            for array in arrays:
                copy = next(c for c in copies if 0 <= array.address - c.address < c.num_bytes)
                self._offsets[array.name] = copy.offset + array.address - copy.address
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

    def collect(self, entries: tuple[str, ...], num_rows: int) -> Pending:
        """Enqueue the copies of what entries have computed since `begin_step`."""
        self._last = (self._last + 1) % DEPTH
        slot = self._slots[self._last]
        slot.taken = True
        call = self._driver.call
        call("cuEventRecord", self._computed, self._stream)
        call("cuStreamWaitEvent", self._copying, self._computed, 0)
        for entry in entries:
            for offset, address, num_bytes in self._copies[entry]:
                call("cuMemcpyDtoHAsync", slot.pinned.address + offset, address, num_bytes, self._copying)
        call("cuEventRecord", slot.ready, self._copying)
        return Pending(self._last, entries, num_rows)

    def read(self, pending: Pending) -> dict[str, NDArray[Any]]:
        """Wait for results and return copies of their rows by name; their place is free then."""
        slot = self._slots[pending.slot]
        slot.taken = False
        self._driver.call("cuEventSynchronize", slot.ready)
        return {
            array.name: self._view(slot, array, pending.num_rows).copy()
            for entry in pending.entries
            for array in self._results[entry]
        }

    def close(self) -> None:
        """Free the pinned memory and the stream."""
        for slot in self._slots:
            slot.pinned.free()
            self._driver.release("cuEventDestroy", slot.ready)
        self._slots.clear()
        self._driver.release("cuEventDestroy", self._computed)
        self._driver.release("cuStreamDestroy", self._copying)

    def _view(self, slot: _Slot, array: DeviceArray, num_rows: int) -> NDArray[Any]:
        return np.ndarray((num_rows, *array.row_shape), array.dtype, slot.pinned.array, self._offsets[array.name])


def _plan_copies(arrays: Sequence[DeviceArray], start: int) -> list[_Copy]:
    """The copies that bring arrays to a slot, from byte `start` of it on."""
    copies: list[_Copy] = []
    for array in sorted(arrays, key=lambda array: array.address):
        last = copies[-1] if copies else None
        if last is not None and array.address - (last.address + last.num_bytes) <= _MAX_GAP:
            copies[-1] = last._replace(num_bytes=array.address + array.num_bytes - last.address)
            continue
        offset = start if last is None else last.offset + last.num_bytes
        copies.append(_Copy(-(-offset // _ALIGNMENT) * _ALIGNMENT, array.address, array.num_bytes))
    return copies
