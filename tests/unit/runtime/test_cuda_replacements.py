"""A launch in place of several on a (fake) GPU: which of them run, how, and the table that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.cuda_fake import FakeCuda, Kernel, array_at
from warploom.errors import ArtifactError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.launch import CudaEntry
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.places import Place
from warploom.runtime.plan import (
    Buffer,
    CudaInfo,
    DimParam,
    DimRange,
    Entry,
    Guard,
    KernelInfo,
    Launch,
    PointerParam,
    Replacement,
    TableParam,
    TensorMapParam,
)

LIMITS = {"T": 8, "S": 8}


def kernel(
    params: list[PointerParam | TensorMapParam | TableParam | DimParam], cooperative: bool = False
) -> KernelInfo:
    cuda = CudaInfo("c", "p", "t", 8, 0, 32, 0, cooperative, params, cooperative)
    return KernelInfo("kind", "summary", "source", [], 0, 0, cuda)


KERNELS = {
    "layer": kernel([PointerParam()]),
    "all": kernel([TableParam(2), PointerParam()], cooperative=True),
}


def entry(table: Sequence[str]) -> Entry:
    buffers = [Buffer(name, "param", "f32", [4]) for name in ("w0", "w1")] + [Buffer("x", "input", "f32", ["T"])]
    launches = [Launch("layer", [name], [], 1, "model", [1, 1, 1]) for name in ("w0", "w1", "x")]
    one = Launch("all", [*table, "x"], [], 132, "model", [132, 1, 1], Guard("max(T, S)", 1, 1))
    return Entry(
        {name: DimRange(1, 8) for name in LIMITS},
        ["x", "w0", "w1"],
        buffers,
        launches,
        0,
        replacements=[Replacement(one, [0, 1], 132)],
    )


class Bound:
    """An entry on a fake GPU; `calls` are the kernels that ran, with their arguments."""

    def __init__(self, multiprocessors: int = 132, table: Sequence[str] = ("w1", "w0")) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        kinds = {"layer": ["pointer"], "all": ["pointer", "pointer"]}
        self.api = FakeCuda({name: (self._recorder(name), kind) for name, kind in kinds.items()})
        driver = Driver(0, self.api)
        driver.gpu = replace(driver.gpu, num_multiprocessors=multiprocessors)
        self.stream = driver.call("cuStreamCreate", 0)
        places = {"w0": Place(1 << 20), "w1": Place(2 << 20), "x": Place(0, "x")}
        functions = {name: name for name in KERNELS}
        memory = DeviceMemory(driver)
        self.entry = CudaEntry(driver, self.stream, entry(table), KERNELS, functions, places, LIMITS, memory)
        self.entry.move({"x": 3 << 20})

    def _recorder(self, name: str) -> Kernel:
        return lambda grid, *arguments: self.calls.append((name, arguments))

    def run(self, **dims: int) -> list[str]:
        self.calls.clear()
        self.entry.resolve(dims)
        self.entry.enqueue()
        self.api.cuStreamSynchronize(self.stream)
        return [name for name, _ in self.calls]


def test_where_its_guard_holds_it_runs_instead_of_those_that_it_replaces() -> None:
    bound = Bound()
    assert bound.run(T=1, S=1) == ["all", "layer"]
    assert bound.calls[-1][1] == (3 << 20,)
    assert [(one.grid, one.pdl, one.cooperative) for one in bound.api.launched] == [
        ((132, 1, 1), True, True),
        ((1, 1, 1), False, False),
    ]
    assert bound.run(T=2, S=2) == ["layer"] * 3
    assert bound.run(T=1, S=2) == ["layer"] * 3
    assert bound.run(T=1, S=1) == ["all", "layer"]


def test_a_smaller_gpu_runs_those_that_it_replaces() -> None:
    assert Bound(114).run(T=1, S=1) == ["layer"] * 3


def test_it_is_given_a_table_of_addresses_and_then_its_pointers() -> None:
    bound = Bound()
    bound.run(T=1, S=1)
    table, x = bound.calls[0][1]
    assert array_at(table, np.uint64, [2]).tolist() == [2 << 20, 1 << 20]
    assert x == 3 << 20


def test_what_moves_from_step_to_step_is_in_no_table() -> None:
    with pytest.raises(ArtifactError, match="no fixed place"):
        Bound(table=("w0", "x"))
