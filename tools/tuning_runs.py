"""Timing the programs of a folder (see `tuning_programs`) on a GPU; needs neither a compiler nor torch.

Timed are graphs of many runs with programmatic dependent launch, over weights that rotate through more than L2, on
random data: medians.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.weights import fill_with_noise
from warploom.runtime.manifest import RandomParam
from warploom.runtime.weights import numpy_dtype
from warploom.tools.kernel_launcher import Graph, Kernel, Timer, number

ROTATED = 300 << 20  # bytes of weights between two uses of one
ROOM = 4096  # most tokens that are timed
ROOM_OF_HEADS = 512  # of layers with very many outputs
HEAD = 40000  # outputs
REPEATS = 7
WEIGHTS = ("w", "scale", "offset")
SPREAD = {"i8": 127.0, "f8e4m3": 100.0}  # of random numbers; 1 of the others
# Tokens that are timed: of kernels for any number, of those for at most 16, which others may beat at fewer.
MANY = (64, 128, 192, 256, 384, 512, 768, 1024, 4096)
FEW = (2, 4, 8, 16)
BOUNDED = ("gemv", "stream", "segment", "skinny", "ring")

Row = dict[str, Any]
Addresses = Mapping[str, int]


class LoadedPrograms:
    """The programs of a folder; kernels are loaded when they are needed."""

    def __init__(self, folder: Path, stream: int) -> None:
        found = json.loads((folder / "programs.json").read_text())
        self.folder, self.stream, self.timer = folder, stream, Timer(stream)
        self.programs: list[Row] = found["programs"]
        self.jobs: list[Row] = found["jobs"]
        self.infos = {name: info | found["compiled"].get(name, {}) for name, info in found["kernels"].items()}
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """A loaded kernel; RuntimeError if it was not compiled or needs more than the GPU has."""
        if "shared_bytes" not in self.infos[name]:
            raise RuntimeError(f"{name} was not compiled or does not fit")
        if name not in self._kernels:
            self._kernels[name] = Kernel(name, self.infos[name], self.folder)
        return self._kernels[name]

    def drop_kernels(self) -> None:
        """Unload all; none may be running."""
        for kernel in self._kernels.values():
            kernel.unload()
        self._kernels.clear()

    def launches(
        self, program: Row, addresses: Addresses, temps: Sequence[int], tokens: int, room: int
    ) -> list[Callable[[int], None]]:
        """The launches of a program, as functions of the stream.

        Args:
            room: tokens that the arrays have room for.
        """
        made = []
        for step in program["steps"]:
            operands = [temps[o] if isinstance(o, int) else addresses[o] for o in step["operands"]]
            launch = self.kernel(step["kernel"]).bind(operands, tokens, room, pdl=True)
            if launch is not None:
                made.append(launch)
        return made

    def seconds(
        self, program: Row, weights: Sequence[Addresses], temps: Sequence[int], tokens: int, room: int
    ) -> float:
        """Of one run, which uses each of `weights` in turn; everything else is in all of them."""
        p = program["problem"]
        estimate = max(p["weight_bytes"] / 3e12, 2 * p["n"] * p["k"] * tokens / 6e14) + 2e-6
        runs = max(len(weights), min(200, int(2e-3 / estimate)))
        launches = [
            launch
            for run in range(runs)
            for launch in self.launches(program, weights[run % len(weights)], temps, tokens, room)
        ]
        graph = Graph(launches, self.stream)
        graph.replay()
        found = self.timer.times(graph.replay, REPEATS)
        graph.destroy()
        return found[len(found) // 2] / runs / 1e6


def timed_tokens(program: Row) -> Iterator[int]:
    """Numbers of tokens at which a candidate is timed."""
    kind, end = program["choice"]["tile"]["type"], program["end"]
    tokens = MANY if kind not in BOUNDED else FEW if end == FEW[-1] else (end,)
    limit = room_of(program)
    yield from (count for count in tokens if program["begin"] <= count <= min(end or limit, limit))


def room_of(program: Row) -> int:
    """Tokens that the arrays of a layer have room for."""
    return ROOM_OF_HEADS if program["problem"]["n"] > HEAD else ROOM


def time_folder(folder: Path, seconds: float, report: Callable[[str], None]) -> list[Row]:
    """Time all programs.

    Args:
        seconds: the most to take. Layers that are not finished then are left out: of half the candidates the fastest
            may be a bad one.

    Returns:
        What `codegen.cuda.selection.Timing` says: key, tokens, us, choice.
    """
    driver = Driver()
    stream = int(driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING))
    loaded, timings = LoadedPrograms(folder, stream), list[Row]()
    deadline = time.monotonic() + seconds
    for key in dict.fromkeys(program["key"] for program in loaded.programs):
        layer = [program for program in loaded.programs if program["key"] == key]
        memory = DeviceMemory(driver)
        weights = _make_weights(driver, memory, layer[0])
        found = list[Row]()
        for program in layer:
            if time.monotonic() >= deadline:
                break
            try:
                found += _time(loaded, memory, program, weights)
            except RuntimeError as error:
                report(f"{key}: {msgspec.json.encode(program['choice']).decode()}: {error}")
        driver.call("cuStreamSynchronize", stream)
        loaded.drop_kernels()
        memory.free()
        if time.monotonic() >= deadline:
            report(f"{key}: not finished after {seconds:.0f} s, left out")
            break
        timings += found
        report(f"{key}: {len(layer)} candidates")
    return timings


def _time(loaded: LoadedPrograms, memory: DeviceMemory, program: Row, weights: list[dict[str, int]]) -> Iterator[Row]:
    """The timings of one program."""
    room, temps = room_of(program), []
    for index, temp in enumerate(program["temps"]):
        size = prod(number(extent, room) for extent in temp["shape"]) * numpy_dtype(temp["dtype"]).itemsize
        temps.append(memory.take_zeroed(f"temp {index}", size))
    for tokens in timed_tokens(program):
        us = 1e6 * loaded.seconds(program, weights, temps, tokens, room)
        yield {"key": program["key"], "tokens": tokens, "us": us, "choice": program["choice"]}
    for index in range(len(temps)):
        memory.give_back(f"temp {index}")


def _make_weights(driver: Driver, memory: DeviceMemory, program: Row) -> list[dict[str, int]]:
    """Random arrays: several weights, each with the same other operands."""
    room, arrays = room_of(program), program["arrays"]
    noise: dict[int, RandomParam] = {}

    def make(name: str, copy: int) -> int:
        dtype, shape = arrays[name]["dtype"], [number(extent, room) for extent in arrays[name]["shape"]]
        address = memory.take(f"{name} {copy}", prod(shape) * numpy_dtype(dtype).itemsize)
        noise[address] = RandomParam(shape, dtype, 0.0, SPREAD.get(dtype, 1.0), len(noise))
        return address

    others = {name: make(name, 0) for name in arrays if name not in WEIGHTS}
    copies = ROTATED // program["problem"]["weight_bytes"] + 1
    made = [others | {name: make(name, copy) for name in arrays if name in WEIGHTS} for copy in range(copies)]
    fill_with_noise(driver, memory, noise)
    return made
