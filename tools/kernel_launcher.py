"""Launching single compiled kernels through the CUDA driver, for tuning and GPU tests; no compiler, no torch.

Buffers are device addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from warploom.runtime.expr import evaluate

cu: Any = import_module("cuda.bindings.driver")  # has no types
DTYPES = {
    "bf16": (cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
    "f16": (cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2),
    "f32": (cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4),
    "f8e4m3": (cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8, 1),
    "i8": (cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8, 1),
}

SHARED_BYTES = 227 << 10
SPILL_LIMIT = 128


def checked(result: tuple[Any, ...]) -> Any:
    """The values of a driver call.

    Raises:
        RuntimeError: the call failed.
    """
    code, *values = result
    if code != cu.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{cu.cuGetErrorName(code)[1].decode()}: {cu.cuGetErrorString(code)[1].decode()}")
    return values[0] if len(values) == 1 else tuple(values)


def number(expression: str, tokens: int) -> int:
    """The value of a plan expression over T."""
    return evaluate(expression, {"T": tokens})


class Kernel:
    """A loaded cubin."""

    def __init__(self, name: str, info: Mapping[str, Any], folder: Path) -> None:
        self.info = info
        if info["shared_bytes"] > SHARED_BYTES:
            raise RuntimeError(f"{name} needs {info['shared_bytes']} bytes of shared memory")
        self.module = checked(cu.cuModuleLoadData((folder / f"{name}.cubin").read_bytes()))
        self.function = checked(cu.cuModuleGetFunction(self.module, name.encode()))
        if info["shared_bytes"] > 48 << 10:
            attribute = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            checked(cu.cuFuncSetAttribute(self.function, attribute, info["shared_bytes"]))
        spilled = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
        if checked(cu.cuFuncGetAttribute(spilled, self.function)) > SPILL_LIMIT:
            raise RuntimeError(f"{name} spills registers")

    def unload(self) -> None:
        """Give its memory back."""
        checked(cu.cuModuleUnload(self.module))

    def bind(self, addresses: Sequence[int], tokens: int, limit: int, pdl: bool) -> Callable[[int], None] | None:
        """A launch on fixed operands: a function of the stream; None for an empty grid.

        Args:
            limit: the most tokens that the operands have room for.
        """
        grid = [number(extent, tokens) for extent in self.info["grid"]]
        if 0 in grid:
            return None
        values: list[Any] = []
        types: list[Any] = []
        maps = iter(self.info["tensormaps"])
        for operand, address in zip(self.info["operands"], addresses, strict=True):
            if operand["kind"] == "pointer":
                values.append(address)
                types.append(ctypes.c_void_p)
            else:
                shape = [number(extent, limit) for extent in operand["shape"]]
                more_values, more_types = tensor_map_params(address, operand["dtype"], shape, *next(maps))
                values += more_values
                types += more_types
        values += [tokens] * self.info["dims"] + [0, 0]
        types += [ctypes.c_int32] * self.info["dims"] + [ctypes.c_void_p] * 2
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * self.info["num_warps"], 1, 1
        config.sharedMemBytes = self.info["shared_bytes"]
        if pdl and self.info["pdl"]:
            attribute = cu.CUlaunchAttribute()
            attribute.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        arguments = (tuple(values), tuple(types))

        def launch(stream: int) -> None:
            config.hStream = stream
            checked(cu.cuLaunchKernelEx(config, self.function, arguments, 0))

        return launch


def tensor_map_params(
    address: int, dtype: str, shape: Sequence[int], box: Sequence[int], swizzle: int
) -> tuple[list[Any], list[Any]]:
    """Values and ctypes of the parameters that an operand with a tensor map has."""
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    rank = len(shape)
    values = [tensor_map(address, dtype, shape, box, swizzle), *shape, *strides]
    return values, [None, *[ctypes.c_int32] * rank, *[ctypes.c_int64] * rank]


def tensor_map(address: int, dtype: str, shape: Sequence[int], box: Sequence[int], swizzle: int) -> Any:
    """A CUtensorMap of a dense array; extents outermost first."""
    kind, size = DTYPES[dtype]
    strides, extent = [], size
    for dim in reversed(shape[1:]):
        extent *= dim
        strides.append(cu.cuuint64_t(extent))
    return checked(
        cu.cuTensorMapEncodeTiled(
            kind,
            len(shape),
            address,
            [cu.cuuint64_t(dim) for dim in reversed(shape)],
            strides,
            [cu.cuuint32_t(dim) for dim in reversed(box)],
            [cu.cuuint32_t(1)] * len(shape),
            cu.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cu.CUtensorMapSwizzle(swizzle),
            cu.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            cu.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )


class Graph:
    """Launches captured once, replayed in one call."""

    def __init__(self, launches: Sequence[Callable[[int], None]], stream: int) -> None:
        self.stream = stream
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        checked(cu.cuStreamBeginCapture(stream, mode))
        try:
            for launch in launches:
                launch(stream)
        finally:
            graph = checked(cu.cuStreamEndCapture(stream))
        self.graph = checked(cu.cuGraphInstantiate(graph, 0))
        checked(cu.cuGraphDestroy(graph))

    def replay(self) -> None:
        """Launch all."""
        checked(cu.cuGraphLaunch(self.graph, self.stream))

    def destroy(self) -> None:
        """Give its memory back."""
        checked(cu.cuGraphExecDestroy(self.graph))


class Timer:
    """Events around replays."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.begin, self.end = (checked(cu.cuEventCreate(0)) for _ in range(2))

    def times(self, run: Callable[[], None], repeats: int) -> list[float]:
        """Microseconds of each of some runs, sorted."""
        found = []
        for _ in range(repeats):
            checked(cu.cuEventRecord(self.begin, self.stream))
            run()
            checked(cu.cuEventRecord(self.end, self.stream))
            checked(cu.cuEventSynchronize(self.end))
            found.append(1e3 * checked(cu.cuEventElapsedTime(self.begin, self.end)))
        return sorted(found)
