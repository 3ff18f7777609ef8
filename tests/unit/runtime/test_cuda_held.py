"""A kernel of clusters replaces launches only on GPUs that hold all of its clusters at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.cuda_fake import FakeCuda
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.held import HeldAtOnce
from warploom.runtime.plan import CudaInfo, Entry, Guard, KernelInfo, Launch, Replacement


class Clusters(FakeCuda):
    """A GPU that holds so many clusters at once."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held = held
        self.asked: list[tuple[str, int]] = []

    def CUlaunchAttribute(self) -> Any:
        return SimpleNamespace(id=None, value=SimpleNamespace(clusterDim=SimpleNamespace(x=0, y=0, z=0)))

    def cuOccupancyMaxActiveClusters(self, function: str, config: Any) -> tuple[int, int]:
        (attribute,) = config.attrs
        self.asked.append((function, attribute.value.clusterDim.x))
        return 0, self.held


def kernel(cluster: int) -> KernelInfo:
    cuda = CudaInfo("all.cubin", "all.ptx", None, 11, 189056, 168, 0, True, [], cooperative=True, cluster=cluster)
    return KernelInfo("persistent", "all", "all.cu", [], "0", "0", cuda=cuda)


def kept(held: int, cluster: int = 8, loaded: bool = True) -> bool:
    launch = Launch("all", [], [], 120, "layers", [120, 1, 1], Guard("T", 1, 1))
    entry = Entry({}, [], [], [], 0, replacements=[Replacement(launch, [0, 1], 132)])
    api = Clusters(held)
    driver = Driver(0, api)
    functions = {"all": "all"} if loaded else {}
    found = HeldAtOnce(driver, None, {"all": kernel(cluster)}, functions).of(entry)
    assert api.asked == ([("all", 8)] if loaded and cluster == 8 else [])
    return bool(found.replacements)


@pytest.mark.parametrize(("held", "expected"), [(15, True), (16, True), (14, False), (0, False)])
def test_clusters_must_all_be_held(held: int, expected: bool) -> None:
    assert kept(held) is expected


def test_others_are_not_asked_for() -> None:
    assert kept(0, cluster=1)
    assert kept(0, loaded=False)
