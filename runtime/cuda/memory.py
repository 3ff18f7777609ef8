"""The GPU's memory: a few large allocations, each with a purpose, and errors that account for all of them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warploom.errors import DeviceError
from warploom.runtime.cuda.driver import Driver

ALIGNMENT = 256  # of every array that we place: what cuMemAlloc gives, and more than any kernel asks for


class DeviceMemory:
    """All allocations of one device."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._taken: dict[str, tuple[int, int]] = {}  # purpose -> address, bytes

    def take(self, purpose: str, num_bytes: int) -> int:
        """Return the address of `num_bytes` new bytes, with unspecified contents; 0 if there are none.

        Raises:
            DeviceError: there is too little; lists what has been taken and for what.
        """
        if not num_bytes:
            return 0
        free, _ = self._driver.memory()
        if num_bytes > free:
            raise self.error(purpose, num_bytes)
        address = int(self._driver.call("cuMemAlloc", num_bytes))
        self._taken[purpose] = address, num_bytes
        return address

    def take_zeroed(self, purpose: str, num_bytes: int) -> int:
        """Return the address of `num_bytes` zeros; the zeros are there once the device is synchronized."""
        address = self.take(purpose, num_bytes)
        if num_bytes:
            self._driver.call("cuMemsetD8", address, 0, num_bytes)
        return address

    @property
    def taken(self) -> dict[str, int]:
        """Bytes by purpose."""
        return {purpose: num_bytes for purpose, (_, num_bytes) in self._taken.items()}

    def error(self, purpose: str, num_bytes: int) -> DeviceError:
        """Return the error for memory that is not there."""
        free, total = self._driver.memory()
        taken = "".join(f", {size} for {what}" for what, size in self.taken.items())
        return DeviceError(
            f"The GPU has too little memory for {purpose}",
            expected=f"{num_bytes} bytes free",
            found=f"{free} of {total} bytes free{taken and '; taken: ' + taken[2:]}",
            fix="lower max_num_seqs, max_num_batched_tokens or kv_cache_bytes, end other programs on this GPU, "
            "or use a GPU with more memory",
        )

    def give_back(self, purpose: str) -> None:
        """Free what was taken for a purpose."""
        address, _ = self._taken.pop(purpose)
        self._driver.release("cuMemFree", address)

    def free(self) -> None:
        """Give everything back."""
        for address, _ in self._taken.values():
            self._driver.release("cuMemFree", address)
        self._taken.clear()


class PinnedArray:
    """Host memory that the GPU copies from and to directly, as numpy bytes.

    Attributes:
        array: [num_bytes] u8; not to be used after `free`.
        address: of its first byte.
    """

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self._driver = driver
        self.address = int(driver.call("cuMemHostAlloc", num_bytes, 0))
        self.array: NDArray[np.uint8] = np.frombuffer(_memory_at(self.address, num_bytes), np.uint8)

    def free(self) -> None:
        """Give the memory back."""
        self._driver.release("cuMemFreeHost", self.address)


def aligned(num_bytes: int) -> int:
    """Return `num_bytes` rounded up to the alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _memory_at(address: int, num_bytes: int) -> Any:
    return (ctypes.c_uint8 * num_bytes).from_address(address)
