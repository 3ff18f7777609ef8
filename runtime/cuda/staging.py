"""The inputs of a step: packed into pinned memory, then one copy to the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import DeviceMemory, PinnedArray
from warploom.runtime.expr import compile_exprs
from warploom.runtime.plan import Buffer
from warploom.runtime.weights import numpy_dtype

Array = NDArray[Any]
_ALIGNMENT = 64
_NUM_SLOTS = 3  # a step is packed while one runs and another waits
_FIRST_SLOT_BYTES = 1 << 20
_MAX_LAYOUTS = 1024
# What rows and columns past an array's own hold; 0 where nothing is said.
_PADDING = {
    "slots": -1,
    "token_sources": -1,
    "context_lens": 1,
    "top_p": 1,
    "repetition_penalty": 1,
    "penalty_tokens": -1,
    "bias_tokens": -1,
}


class Layout(NamedTuple):
    """Where each input is, for some dims: byte offset in the block, and shape."""

    dims: tuple[int, ...]
    offsets: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    num_bytes: int


class _Target(NamedTuple):
    """Where an input is packed, and what fills the rest of it."""

    name: str
    array: Array
    padding: int


class _Slot:
    """A pinned buffer, the event after which it may be written again, and its inputs' arrays by layout."""

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self.pinned = PinnedArray(driver, num_bytes)
        self.copied = driver.call("cuEventCreate", driver.api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self._targets: dict[tuple[int, ...], list[_Target]] = {}

    def targets(self, layout: Layout, dtypes: Mapping[str, np.dtype[Any]]) -> list[_Target]:
        """Return the inputs' arrays in this buffer."""
        found = self._targets.get(layout.dims)
        if found is None:
            if len(self._targets) >= _MAX_LAYOUTS:
                self._targets.clear()
            found = self._targets[layout.dims] = [
                _Target(
                    name,
                    np.ndarray(layout.shapes[name], dtype, self.pinned.array, layout.offsets[name]),
                    _PADDING.get(name, 0),
                )
                for name, dtype in dtypes.items()
            ]
        return found

    def enlarge(self, driver: Driver, num_bytes: int) -> None:
        """Make room for more; the contents are lost."""
        self._targets.clear()
        self.pinned.free()
        self.pinned = PinnedArray(driver, num_bytes)


class InputBlock:
    """One block of device memory for all inputs of a step, laid out anew for every combination of dims.

    Args:
        stream: copies run on it, in order with the step's kernels.
        inputs: the buffers, by rising likelihood that their dims differ between steps that are otherwise alike.
        limits: the largest dims; names of all that the inputs' shapes speak of.
    """

    def __init__(
        self, driver: Driver, memory: DeviceMemory, stream: Any, inputs: Sequence[Buffer], limits: Mapping[str, int]
    ) -> None:
        self._driver, self._stream = driver, stream
        self._dtypes = {buffer.name: numpy_dtype(buffer.dtype) for buffer in inputs}
        self._ranks = [len(buffer.shape) for buffer in inputs]
        self._dims = itemgetter(*limits)
        self._extents = compile_exprs([extent for buffer in inputs for extent in buffer.shape], list(limits))
        self._layouts: dict[tuple[int, ...], Layout] = {}
        num_bytes = self.layout(limits).num_bytes
        self._address = memory.take("step inputs", num_bytes)
        first = min(num_bytes, _FIRST_SLOT_BYTES)
        self._slots = [_Slot(driver, first) for _ in range(_NUM_SLOTS)]
        self._next = 0

    def layout(self, dims: Mapping[str, int]) -> Layout:
        """Return the layout for some dims."""
        key: tuple[int, ...] = self._dims(dims)
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = self._make_layout(key)
        return layout

    def addresses(self, layout: Layout) -> dict[str, int]:
        """Return where the inputs are on the GPU."""
        return {name: self._address + offset for name, offset in layout.offsets.items()}

    def upload(self, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> None:
        """Enqueue the copy of all arrays, padded to the shapes at `dims`; they may be changed when this returns.

        Args:
            arrays: by name; one that is missing is all padding.
        """
        layout = self.layout(dims)
        slot = self._take_slot(layout.num_bytes)
        for name, target, padding in slot.targets(layout, self._dtypes):
            array = arrays.get(name)
            if array is not None and array.shape == target.shape:
                target[...] = array
                continue
            target[...] = padding
            if array is not None:
                target[tuple(map(slice, array.shape))] = array
        self._driver.call("cuMemcpyHtoDAsync", self._address, slot.pinned.address, layout.num_bytes, self._stream)
        self._driver.call("cuEventRecord", slot.copied, self._stream)

    def close(self) -> None:
        """Free the pinned memory."""
        for slot in self._slots:
            slot.pinned.free()
            self._driver.release("cuEventDestroy", slot.copied)
        self._slots.clear()

    def _make_layout(self, values: tuple[int, ...]) -> Layout:
        extents = iter(self._extents(*values))
        offsets: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        end = 0
        for (name, dtype), rank in zip(self._dtypes.items(), self._ranks, strict=True):
            shape = tuple(next(extents) for _ in range(rank))
            offsets[name], shapes[name] = end, shape
            num_bytes = int(np.prod(shape)) * dtype.itemsize
            end += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return Layout(values, offsets, shapes, end)

    def _take_slot(self, num_bytes: int) -> _Slot:
        """Return the next slot, once the GPU has read what it held, with room for `num_bytes`."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % _NUM_SLOTS
        self._driver.call("cuEventSynchronize", slot.copied)
        if num_bytes > len(slot.pinned.array):
            slot.enlarge(self._driver, max(num_bytes, 2 * len(slot.pinned.array)))
        return slot
