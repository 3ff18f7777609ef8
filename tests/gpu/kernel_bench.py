"""Kernels of one folder on the GPU machine: loading, launching twice, timing. For `run_kernels.py`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver as cu

from warploom.tools.kernel_launcher import Graph, Kernel, Timer, checked, tensor_map_params

ROTATED = 300 << 20  # bytes between two uses of the same data
RESULTS = ("kv", "tokens", "logprobs", "top_tokens", "top_logprobs")
TORCH = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f16": torch.float16,
    "i32": torch.int32,
    "i64": torch.int64,
    "i8": torch.int8,
    "f8e4m3": torch.float8_e4m3fn,
    "i1": torch.bool,
}
Case = dict[str, Any]
Arrays = dict[str, torch.Tensor]
Launch = Callable[[int], None]


class Bench:
    """Kernels of one folder; `small` leaves of every check what is enough to run each kernel once."""

    def __init__(self, folder: Path, small: bool) -> None:
        self.small = small
        found = json.loads((folder / "kernels.json").read_text())
        self.cases: list[Case] = found["cases"]
        self.infos: dict[str, Case] = found["kernels"]
        self.folder = folder
        self.stream = torch.cuda.Stream()
        self.timer = Timer(self.stream.cuda_stream)
        self.kernels: dict[str, Kernel] = {}

    def temps(self, name: str, dims: dict[str, int]) -> Arrays:
        """Memory of a kernel: zeros where it asks for them, else garbage that would be seen."""
        made = {}
        for temp in self.infos[name]["temps"]:
            shape = [number(extent, dims) for extent in temp["shape"]]
            fill = 0 if temp["zeroed"] else -(2**31) if temp["dtype"] == "i32" else float("nan")
            made[temp["name"]] = torch.full(shape, fill, dtype=TORCH[temp["dtype"]], device="cuda")
        return made

    def bind(self, name: str, arrays: Arrays, dims: dict[str, int], pdl: bool = True) -> Launch | None:
        """A launch on fixed operands: a function of the stream; None for an empty grid."""
        info = self.infos[name]
        if name not in self.kernels:
            self.kernels[name] = Kernel(name, info, self.folder)
        kernel = self.kernels[name]
        grid = [number(extent, dims) for extent in info["grid"]]
        if 0 in grid:
            return None
        values: list[Any] = []
        types: list[Any] = []
        for operand in info["operands"]:
            address, found = arrays[operand].data_ptr(), info["maps"].get(operand)
            if found is None:
                values.append(address)
                types.append(ctypes.c_void_p)
            else:
                shape = [number(extent, dims) for extent in found["shape"]]
                more_values, more_types = tensor_map_params(address, found["dtype"], shape, *found["place"])
                values += more_values
                types += more_types
        values += [*(dims[dim] for dim in info["dims"]), 0, 0]
        types += [ctypes.c_int32] * len(info["dims"]) + [ctypes.c_void_p] * 2
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * info["num_warps"], 1, 1
        config.sharedMemBytes = info["shared_bytes"]
        if pdl and info["pdl"]:
            attribute = cu.CUlaunchAttribute()
            attribute.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        arguments = (tuple(values), tuple(types))

        def launch(stream: int) -> None:
            config.hStream = stream
            checked(cu.cuLaunchKernelEx(config, kernel.function, arguments, 0))

        return launch

    def run(self, names: Sequence[str], arrays: Arrays, dims: dict[str, int]) -> list[str]:
        """Launch twice; returns what is wrong with that: counters that stay, results that differ."""
        temps: Arrays = {}
        for name in names:
            temps |= self.temps(name, dims)
        launches = [self.bind(name, arrays | temps, dims) for name in names]
        results = []
        for _ in range(2):
            torch.cuda.synchronize()
            for launch in filter(None, launches):
                launch(self.stream.cuda_stream)
            torch.cuda.synchronize()
            results.append({n: a.clone() for n, a in arrays.items() if n in RESULTS or n.startswith("out")})
        problems = [
            f"two runs differ in {n}" for n in results[0] if not torch.equal(bits(results[0][n]), bits(results[1][n]))
        ]
        zeroed = [t["name"] for name in names for t in self.infos[name]["temps"] if t["zeroed"]]
        return problems + [f"{name} is not left zero" for name in zeroed if temps[name].any()]

    def time(self, launches: Sequence[Launch | None]) -> float:
        """Microseconds of one launch: the median over replays of a graph of all."""
        torch.cuda.synchronize()  # torch still makes the data on a stream of its own
        graph = Graph([launch for launch in launches if launch is not None], self.stream.cuda_stream)
        graph.replay()
        found = self.timer.times(graph.replay, 9)
        graph.destroy()
        return found[len(found) // 2] / len(launches)


def number(expression: str, dims: dict[str, int]) -> int:
    """The value of a plan expression."""
    return int(eval(expression, {"min": min, "max": max, **dims}))


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
