"""Which kernels of clusters a GPU holds at once: that depends on how its multiprocessors lie, not on their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.launch import launch_config
from warploom.runtime.plan import CudaInfo, Entry, KernelInfo, Launch


@dataclass(frozen=True)
class HeldAtOnce:
    """What a GPU holds of the kernels that are loaded."""

    driver: Driver
    stream: Any
    kernels: Mapping[str, KernelInfo]
    functions: Mapping[str, Any]

    def of(self, entry: Entry) -> Entry:
        """The entry without replacements whose clusters cannot all run at once: what they replace runs."""
        kept = [one for one in entry.replacements if self._holds(one.launch)]
        return msgspec.structs.replace(entry, replacements=kept)

    def _holds(self, launch: Launch) -> bool:
        info = self.kernels[launch.kernel].cuda
        if info is None or info.cluster == 1 or launch.kernel not in self.functions:
            return True
        (blocks, *_) = launch.grid
        return self._clusters(launch.kernel, info) * info.cluster >= int(blocks)

    def _clusters(self, kernel: str, info: CudaInfo) -> int:
        api, config = self.driver.api, launch_config(self.driver, self.stream, info)
        attribute = api.CUlaunchAttribute()
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = info.cluster, 1, 1
        config.gridDimX = info.cluster
        config.attrs, config.numAttrs = [attribute], 1
        clusters: int = self.driver.call("cuOccupancyMaxActiveClusters", self.functions[kernel], config)
        return clusters
