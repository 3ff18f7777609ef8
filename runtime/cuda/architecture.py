"""Which of an artifact's CUDA targets a GPU can run, and in which form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from warploom.errors import DeviceError
from warploom.runtime.cuda.driver import Gpu, cuda_version, driver_too_old
from warploom.runtime.manifest import CudaTargetInfo, TargetInfo

Form = Literal["cubin", "ptx"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A target and the form of its kernels: machine code, or PTX that the driver translates at load.

    Attributes:
        considered: what was found out about each of the artifact's CUDA targets.
    """

    target: str
    form: Form
    considered: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a GPU runs a target (`form` None: it does not), and why; the highest rank is the best."""

    rank: tuple[int, int]
    form: Form | None
    reason: str


def choose_target(targets: Mapping[str, TargetInfo], gpu: Gpu) -> Choice:
    """Return the target to run on `gpu`.

    Cubins made for the GPU's own architecture come first, then those of an earlier one of the same major version,
    then PTX of an earlier one. Code that uses features of one architecture alone (`portable` is false: everything
    that Triton makes for sm_90 and later) runs on that one only.

    Raises:
        DeviceError: there is none, or the driver is too old for it.
    """
    offered = {name: target.cuda for name, target in targets.items() if target.cuda is not None}
    verdicts = {name: judge(info, gpu) for name, info in offered.items()}
    considered = {name: verdict.reason for name, verdict in verdicts.items()}
    best = max((name for name in verdicts if verdicts[name].form), key=lambda name: verdicts[name].rank, default=None)
    form = None if best is None else verdicts[best].form
    if best is None or form is None:
        raise DeviceError(
            "The artifact has no code that this GPU can run",
            expected=f"code for sm_{gpu.capability}, the architecture of {gpu.name}",
            found="; ".join(f"{name}: {reason}" for name, reason in considered.items()) or "no code for GPUs",
            fix=f"compile the model with target='cuda:sm_{gpu.capability}'",
        )
    needed = offered[best].min_driver if form == "cubin" else offered[best].min_ptx_driver
    if gpu.driver < needed:
        raise driver_too_old(f"The {form} code of the target {best}", needed, gpu.driver)
    return Choice(best, form, considered)


def judge(info: CudaTargetInfo, gpu: Gpu) -> Verdict:
    """Return whether `gpu` runs a target, in which form, and why."""
    capability = int(info.arch.removeprefix("sm_"))
    if capability == gpu.capability:
        return Verdict((2, capability), "cubin", "machine code of this architecture")
    if capability > gpu.capability:
        return Verdict((0, 0), None, f"for later GPUs than sm_{gpu.capability}")
    if not info.portable:
        return Verdict((0, 0), None, f"uses what only {info.arch} has, and this GPU is sm_{gpu.capability}")
    if capability // 10 == gpu.capability // 10:
        return Verdict((1, capability), "cubin", "machine code of an earlier GPU of this generation")
    ptx = f"PTX of an earlier generation, which a driver for CUDA {cuda_version(info.min_ptx_driver)} translates"
    return Verdict((0, capability), "ptx", ptx)
