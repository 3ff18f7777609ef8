"""Runs a CUDA plan in Triton's interpreter: what a GPU would compute, launch by launch, without one.

For architectures without tensor maps (sm_80), whose kernels the interpreter runs. Every buffer has memory of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.driver import CudaProgram
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Entry, Launch

Arrays = dict[str, np.ndarray]


def run_entry(
    program: CudaProgram, name: str, given: Mapping[str, np.ndarray], dims: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """All buffers of an entry after its launches.

    Args:
        given: inputs and params by name; inputs that are donated are overwritten.
    """
    entry: Entry = program.entries[name]
    arrays: Arrays = {}
    for buffer in entry.buffers:
        arrays[buffer.name] = _memory(buffer, arrays, given, dims)
    for launch in entry.launches:
        grid = [evaluate(extent, dims) for extent in launch.grid]
        if 0 not in grid and _holds(launch, dims):
            spec: Any = program.kernels[launch.kernel].spec
            values = [evaluate(value, dims) for value in launch.dims]
            operands = [arrays[operand] for operand in launch.operands]
            run_kernel(spec, operands, dict(zip(spec.dims, values, strict=True)))
    return arrays


def _holds(launch: Launch, dims: Mapping[str, int]) -> bool:
    return launch.when is None or launch.when.min <= evaluate(launch.when.value, dims) <= launch.when.max


def _memory(buffer: Buffer, arrays: Arrays, given: Mapping[str, np.ndarray], dims: Mapping[str, int]) -> np.ndarray:
    """What is given, what another buffer has, or memory that holds garbage which would be seen."""
    if buffer.name in given:
        return given[buffer.name]
    if buffer.aliases is not None:
        source = arrays[buffer.aliases]
        if buffer.kind != "view":
            return source
        return source.reshape(-1)[evaluate(buffer.offset or 0, dims) // source.itemsize :]
    dtype = DType(buffer.dtype).numpy
    fill = 0 if buffer.kind == "zeroed" or dtype.kind == "i" else np.nan
    return np.full([evaluate(extent, dims) for extent in buffer.shape], fill, dtype)
