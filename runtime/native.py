"""Calling one native entry of a plan: pointers in, one C call, results as views of its arena.

ABI: `int32_t wl_<entry>(wl_pool *pool, void *arena, void *const *buffers, const int64_t *dims)`, `buffers` in the
order of the entry's externals, `dims` in the order of its dims; 0 is success.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.errors import ArtifactError, EngineError
from warploom.runtime.expr import Expr, compile_expr, evaluate
from warploom.runtime.plan import Buffer, Entry
from warploom.runtime.weights import numpy_dtype

Array = NDArray[Any]
_MAP_NORESERVE = 0x4000  # linux/mman.h; Python 3.11's mmap does not name it


def anonymous_array(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return page-aligned zeros that take no RAM until they are written, in huge pages where possible.

    Raises:
        EngineError: the system refuses that much address space.
    """
    num_bytes = max(1, prod(shape) * dtype.itemsize)
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError as error:
        raise EngineError(
            "The device's memory cannot be mapped",
            expected=f"{num_bytes} bytes of address space",
            found=str(error),
            fix="lower the limits on tokens, sequences or the KV cache",
        ) from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)


class _Input(NamedTuple):
    place: int  # in the pointer table
    name: str
    dtype: np.dtype[Any]


class _Result(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    offset: Callable[..., int]  # these two are functions of the dims' values, in order
    shape: list[Callable[..., int]]


class NativeEntry:
    """One entry, bound to a library, a thread pool and the parameters. Its results last until its next call.

    Args:
        library: has `wl_<name>`.
        pool: the `wl_pool *`.
        params: the artifact's parameters; those that the entry names are bound now.
        limits: the largest dims of ordinary calls, for which the arena is made at once; a larger call enlarges it.

    Raises:
        ArtifactError: library, plan and parameters do not fit together.
    """

    def __init__(
        self,
        name: str,
        entry: Entry,
        library: ctypes.CDLL,
        pool: int,
        params: Mapping[str, Array],
        limits: Mapping[str, int],
    ) -> None:
        self.dims = entry.dims
        self._name, self._pool = name, pool
        self._function = _entry_function(library, name)
        self._pointers = (ctypes.c_void_p * len(entry.externals))()
        self._dims_type = ctypes.c_int64 * len(entry.dims)
        self._inputs: list[_Input] = []
        given = {buffer.name: buffer for buffer in entry.buffers if buffer.kind in ("input", "param")}
        for index, external in enumerate(entry.externals):
            buffer = given[external]
            if buffer.kind == "param":
                self._pointers[index] = _param_address(buffer, params)
            else:
                self._inputs.append(_Input(index, external, numpy_dtype(buffer.dtype)))
        self._params = params  # the pointers above point into these
        names = tuple(entry.dims)
        self._results = _results(entry, given.keys(), names)
        self._arena_bytes = compile_expr(entry.arena_bytes, names)
        largest = [min(limits.get(dim, allowed.max), allowed.max) for dim, allowed in entry.dims.items()]
        self._arena = anonymous_array([max(1, self._arena_bytes(*largest))], np.dtype(np.uint8))

    def __call__(self, inputs: Mapping[str, Array], dims: Mapping[str, int]) -> dict[str, Array]:
        """Run the entry once and return its results by name, as views of the arena.

        Args:
            inputs: every input by name: C-contiguous, of the plan's dtype (bf16 as uint16).
            dims: the entry's dims by name (more do no harm).

        Raises:
            EngineError: a dim is outside the plan's range, an input has another layout, or the call failed.
        """
        values = [self._checked_dim(name, dims[name]) for name in self.dims]
        for place, name, dtype in self._inputs:
            array = inputs[name]
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise EngineError(
                    f"The input {name} of {self._name} has the wrong layout",
                    expected=f"C-contiguous {dtype}",
                    found=f"{array.dtype}, strides {array.strides}",
                )
            self._pointers[place] = _address(array)
        num_bytes = self._arena_bytes(*values)
        if num_bytes > len(self._arena):
            self._arena = anonymous_array([num_bytes], np.dtype(np.uint8))
        sizes = self._dims_type(*values)
        status = self._function(self._pool, _address(self._arena), self._pointers, sizes)
        if status != 0:
            raise EngineError(f"The native entry {self._name} failed", expected="status 0", found=str(status))
        return {result.name: self._view(result, values) for result in self._results}

    def _checked_dim(self, name: str, value: int) -> int:
        allowed = self.dims[name]
        if not allowed.min <= value <= allowed.max or value % allowed.multiple_of:
            raise EngineError(
                f"The dim {name} of {self._name} is outside what was compiled",
                expected=f"{allowed.min}..{allowed.max}, a multiple of {allowed.multiple_of}",
                found=str(value),
                fix="compile the model with larger bounds",
            )
        return value

    def _view(self, result: _Result, values: list[int]) -> Array:
        shape = [size(*values) for size in result.shape]
        start = result.offset(*values)
        flat = self._arena[start : start + prod(shape) * result.dtype.itemsize]
        return flat.view(result.dtype).reshape(shape)


def _address(array: Array) -> int:
    """Return where the data of a writable, contiguous array is; five times quicker than `array.ctypes.data`.

    An empty array (no rows need logits) has no byte to point at, and nobody reads it: null.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data)) if array.size else 0


def _entry_function(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    symbol = f"wl_{name}"
    try:
        function = getattr(library, symbol)
    except AttributeError as error:
        raise ArtifactError(
            f"The native code has no function {symbol}",
            expected="one function per entry of the plan",
            found=str(library._name),
            fix="compile the model again",
        ) from error
    function.restype = ctypes.c_int32
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64),
    ]  # fmt: skip
    called: Callable[..., int] = function
    return called


def _param_address(buffer: Buffer, params: Mapping[str, Array]) -> int:
    """Return the address of a parameter, checked against what the plan says of it."""
    array = params.get(buffer.name)
    shape = tuple(evaluate(size, {}) for size in buffer.shape)
    dtype = numpy_dtype(buffer.dtype)
    if array is None or array.shape != shape or array.dtype != dtype:
        raise ArtifactError(
            f"The parameter {buffer.name!r} does not fit the plan",
            expected=f"{buffer.dtype} {list(shape)}",
            found="nothing" if array is None else f"{array.dtype} {list(array.shape)}",
            fix="compile the model again",
        )
    return array.ctypes.data


def _results(entry: Entry, given: Collection[str], dims: tuple[str, ...]) -> list[_Result]:
    """Return the results that live in the arena, some of them in the place of another; not those that are inputs."""
    by_name = {buffer.name: buffer for buffer in entry.buffers if buffer.kind == "result"}
    found: list[_Result] = []
    for name, buffer in by_name.items():
        home = buffer
        while home.aliases is not None and home.aliases not in given:
            home = by_name[home.aliases]
        if home.aliases is None:
            shape = [compile_expr(size, dims) for size in buffer.shape]
            found.append(_Result(name, numpy_dtype(buffer.dtype), compile_expr(_offset(home), dims), shape))
    return found


def _offset(buffer: Buffer) -> Expr:
    if buffer.offset is None:
        raise ArtifactError(
            f"The plan gives the result {buffer.name!r} no place in the arena", fix="compile the model again"
        )
    return buffer.offset
