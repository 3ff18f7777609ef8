"""Runs compiled entries on numpy arrays: for tests and tools, which compare them with the interpreter.

Every run has fresh memory: inputs are copied, and the arena is filled with bytes that read as NaN, so that a kernel
that reads what nobody wrote shows.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from warploom.errors import CompileError
from warploom.ir.dims import bind, shape
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Entry, Plan

Arrays = Mapping[str, np.ndarray]
ALIGNMENT, POISON, GUARD_BYTES = 64, 0xFF, 4096


class NativeModule:
    """A shared object with its plan, and a pool of threads to run it on; a context manager.

    Args:
        plan: of the module.
        library: the shared object for an ISA level that this machine has.
        scratch_bytes: as the product states.
        threads: size of the pool, the caller included.

    Raises:
        OSError: the shared object cannot be loaded.
    """

    def __init__(self, plan: Plan, library: Path, scratch_bytes: int, threads: int = 1) -> None:
        self._plan = plan
        self._library = ctypes.CDLL(str(library))
        self._library.wl_pool_create.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._library.wl_pool_create(threads, ctypes.c_int64(scratch_bytes)))
        if not self._pool:
            raise CompileError("the thread pool cannot be created", found=f"{threads} threads")

    def __enter__(self) -> NativeModule:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        self._library.wl_pool_destroy(self._pool)
        self._pool = ctypes.c_void_p()

    def run(self, name: str, inputs: Arrays, params: Arrays | None = None) -> dict[str, np.ndarray]:
        """Run the entry `name` and return its results by name, as the interpreter does.

        Args:
            inputs: every input by name; shapes bind the dims. None is changed, donated ones neither.
            params: packed parameters by name.

        Raises:
            IRError: the shape of an input does not fit.
            CompileError: an input or param is missing or of the wrong dtype, or the code wrote outside its arena.
        """
        entry = self._plan.entries[name]
        memory = _externals(entry, {**(params or {}), **inputs})
        dims = _bind_dims(entry, memory)
        arena_bytes = evaluate(entry.arena_bytes, dims)
        arena = _aligned(np.full(arena_bytes + GUARD_BYTES, POISON, np.uint8))
        pointers = (ctypes.c_void_p * len(memory))(*(array.ctypes.data for array in memory.values()))
        values = (ctypes.c_int64 * len(dims))(*dims.values())
        status = self._library[f"wl_{name}"](self._pool, ctypes.c_void_p(arena.ctypes.data), pointers, values)
        if status != 0 or (arena[arena_bytes:] != POISON).any():
            raise CompileError(
                f"@{name} failed", expected="status 0, and no write beyond its arena", found=f"status {status}"
            )
        return {b.name: _result(b, entry, memory, arena, dims) for b in entry.buffers if b.kind == "result"}


def _externals(entry: Entry, given: Arrays) -> dict[str, np.ndarray]:
    """Aligned arrays in the order of the ABI: copies of inputs, and params as they are if aligned."""
    buffers = {buffer.name: buffer for buffer in entry.buffers if buffer.kind in ("input", "param")}
    memory = {}
    for name in entry.externals:
        dtype = DType(buffers[name].dtype)
        if name not in given or given[name].dtype != dtype.numpy:
            found = str(given[name].dtype) if name in given else "nothing"
            raise CompileError(f"{buffers[name].kind} {name} is wrong", expected=str(dtype.numpy), found=found)
        array = given[name]
        is_ready = array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0
        memory[name] = array if is_ready and buffers[name].kind == "param" else _aligned(array)
    return memory


def _bind_dims(entry: Entry, memory: Arrays) -> dict[str, int]:
    """The entry's dims from the shapes of inputs and params; 0 for one that none of them speaks of."""
    declared = {buffer.name: shape(buffer.shape) for buffer in entry.buffers if buffer.name in memory}
    dims: dict[str, int] = {}
    bind([declared[name] for name in memory], [array.shape for array in memory.values()], dims)
    return {name: dims.get(name, 0) for name in entry.dims}


def _result(buffer: Buffer, entry: Entry, memory: Arrays, arena: np.ndarray, dims: Mapping[str, int]) -> np.ndarray:
    home = buffer
    extents = [evaluate(dim, dims) for dim in buffer.shape]
    while home.aliases is not None:
        if home.aliases in memory:
            return memory[home.aliases].reshape(extents)
        home = next(other for other in entry.buffers if other.name == home.aliases)
    assert home.offset is not None
    dtype = DType(buffer.dtype).numpy
    begin = evaluate(home.offset, dims)
    return arena[begin : begin + math.prod(extents) * dtype.itemsize].view(dtype).reshape(extents)


def _aligned(array: np.ndarray) -> np.ndarray[Any, Any]:
    """A contiguous copy that begins on a cache line."""
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
