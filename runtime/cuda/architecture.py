"""Which of an artifact's CUDA targets a GPU can run, and in which form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from warploom.errors import DeviceError
from warploom.runtime.cuda.driver import Gpu, driver_too_old
from warploom.runtime.manifest import CudaTargetInfo, TargetInfo


@dataclass(frozen=True, slots=True)
class Choice:
    """A target and the form of its kernels: machine code, or PTX that the driver translates at load."""

    target: str
    form: Literal["cubin", "ptx"]


def choose_target(targets: Mapping[str, TargetInfo], gpu: Gpu) -> Choice:
    """Return the target to run on `gpu`.

    Cubins made for the GPU's own architecture come first, then those of an earlier one of the same major version,
    then PTX of an earlier one. Code that uses features of one architecture alone (`portable` is false: everything
    that Triton makes for sm_90 and later) runs on that one only.

    Raises:
        DeviceError: there is none, or the driver is too old for it.
    """
    offered = {name: target.cuda for name, target in targets.items() if target.cuda is not None}
    by_capability = {_capability(info): name for name, info in offered.items() if _runs_on(info, gpu)}
    if not by_capability:
        raise DeviceError(
            "The artifact has no code that this GPU can run",
            expected=", ".join(info.arch for info in offered.values()) or "an artifact compiled for a GPU",
            found=f"{gpu.name}, sm_{gpu.capability}",
            fix=f"compile the model with target='cuda:sm_{gpu.capability}'",
        )
    capability = max(by_capability)
    name = by_capability[capability]
    form: Literal["cubin", "ptx"] = "cubin" if capability // 10 == gpu.capability // 10 else "ptx"
    info = offered[name]
    needed = info.min_driver if form == "cubin" else info.min_ptx_driver
    if gpu.driver < needed:
        raise driver_too_old(f"The {form} code of the target {name}", needed, gpu.driver)
    return Choice(name, form)


def _capability(info: CudaTargetInfo) -> int:
    return int(info.arch.removeprefix("sm_"))


def _runs_on(info: CudaTargetInfo, gpu: Gpu) -> bool:
    capability = _capability(info)
    return capability == gpu.capability or (info.portable and capability < gpu.capability)
