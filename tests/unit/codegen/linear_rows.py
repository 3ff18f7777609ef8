"""A linear kernel of the CPU on some rows of x alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np

from warploom.codegen.cpu.kernels.linear_spec import LinearSpec


def run_rows(
    spec: LinearSpec, buffers: Mapping[str, np.ndarray], kernel: Callable[..., None], rows: slice, split: int = 1
) -> np.ndarray:
    """y of the rows `rows`, computed alone, in `split` calls over the tiles."""
    count = rows.stop - rows.start
    y = np.full((count + 1, spec.outputs), 7.0, np.float32)
    own = {name: buffers[name][rows].copy() for name in ("x", "residual")}
    arrays = {**buffers, **own, "y": y}
    operands = [arrays[name] for name in spec.operands]
    args = (ctypes.c_void_p * len(operands))(*(array.ctypes.data for array in operands))
    scratch = np.zeros(spec.scratch_bytes, np.uint8)
    tiles = eval(spec.tiles, {"T": count})
    for part in range(split):
        begin, end = (tiles * edge // split for edge in (part, part + 1))
        bounds = ctypes.c_int64(begin), ctypes.c_int64(end)
        kernel(args, (ctypes.c_int64 * 1)(count), *bounds, ctypes.c_void_p(scratch.ctypes.data))
    assert (y[count] == 7.0).all(), "wrote past the last row"
    return y[:count]
