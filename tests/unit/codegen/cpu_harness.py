"""Compile kernel specs for an ISA level and call them on numpy arrays through the worker pool."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import LEVELS, Isa
from warploom.runtime.expr import evaluate

CPU_FLAGS = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
RUNNABLE = [level for level in LEVELS if CPU_FLAGS.issuperset(level.features)]
on_every_isa = pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)


class CompiledKernel:
    """One kernel in a shared object of its own: `kernel([q, out], {"T": 3})` runs all its tiles."""

    def __init__(self, spec: Any, isa: Isa) -> None:
        library = Library(isa)
        spec.emit(library)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{spec.name}.so"
            toolchain.build_shared_object(library, path)
            self.object = ctypes.CDLL(str(path))
        self.spec = spec
        self.object.wl_pool_create.restype = ctypes.c_void_p

    def __call__(self, arrays: Sequence[np.ndarray], dims: Mapping[str, int], threads: int = 1) -> None:
        """Run every tile on C-contiguous arrays, in the order of the kernel's operands."""
        assert all(array.flags.c_contiguous for array in arrays)
        assert list(dims) == list(self.spec.dims)
        args = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        extents = (ctypes.c_int64 * max(1, len(dims)))(*dims.values())
        tiles = evaluate(self.spec.tiles, dims)
        pool = ctypes.c_void_p(self.object.wl_pool_create(threads, ctypes.c_int64(self.spec.scratch_bytes)))
        kernel = ctypes.cast(getattr(self.object, self.spec.name), ctypes.c_void_p)
        self.object.wl_parallel(pool, kernel, args, extents, ctypes.c_int64(tiles))
        self.object.wl_pool_destroy(pool)


@cache
def compiled(spec: Any, isa: Isa) -> CompiledKernel:
    """The kernel of a spec, built once a session."""
    return CompiledKernel(spec, isa)
