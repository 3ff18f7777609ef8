"""Which device serves an artifact on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from warploom.errors import ArtifactError, DeviceError, EngineError
from warploom.runtime.artifact import Artifact
from warploom.runtime.cpu import select_variant
from warploom.runtime.cuda.architecture import judge
from warploom.runtime.cuda.driver import Driver, has_gpu
from warploom.runtime.device import Device
from warploom.runtime.machine import cpu_features
from warploom.runtime.manifest import CudaTargetInfo, TargetInfo

DeviceKind: TypeAlias = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What may be asked of a device; None: its own default.

    Attributes:
        threads: CPU: worker threads.
        memory_fraction: GPU: how much of its memory is used in all.
        num_drafts: most drafts of a sequence in a step.
    """

    threads: int | None = None
    max_seqs: int | None = None
    max_tokens: int | None = None
    kv_bytes: int | None = None
    memory_fraction: float | None = None
    num_drafts: int = 0


_FIXES = {
    "cpu": "compile the model with target='cpu'",
    "cuda": "compile the model with target='cuda:sm_90' or the like",
}


def open_device(
    artifact: Artifact, kind: DeviceKind | None, options: DeviceOptions, gpu_present: Callable[[], bool] = has_gpu
) -> Device:
    """Open the device to serve `artifact` with.

    Args:
        kind: None: the GPU if the artifact has code for GPUs and there is one, else the CPU.

    Raises:
        DeviceError: the artifact has code for GPUs only, and there is none; or there is one that does not do.
        ArtifactError: the artifact has no code for the kind of device.
        EngineError: an option does not apply to the device, or its value is not possible.
    """
    kinds = {name.partition(":")[0] for name in artifact.manifest.targets}
    chosen = kind or _choose(artifact, kinds, gpu_present)
    if chosen not in kinds:
        raise ArtifactError(
            f"The artifact {artifact.path} has no code for the device {chosen!r}",
            expected=f"target {chosen!r}",
            found=", ".join(artifact.manifest.targets) or "no targets",
            fix=_FIXES.get(chosen, f"there are the devices {', '.join(_FIXES)}"),
        )
    return _open_cpu(artifact, options) if chosen == "cpu" else _open_cuda(artifact, options)


def survey(artifact: Artifact, api: Any = None) -> dict[str, str]:
    """Return what this machine makes of each of the artifact's targets, by name.

    Args:
        api: in place of `cuda.bindings.driver`.
    """
    targets = artifact.manifest.targets
    found = {"cpu": _survey_cpu(targets["cpu"])} if "cpu" in targets else {}
    offered = {name: target.cuda for name, target in targets.items() if target.cuda is not None}
    if offered:
        found |= _survey_gpu(offered, api)
    return found


def _survey_cpu(target: TargetInfo) -> str:
    try:
        return f"runs on this CPU, by its code for {select_variant(target.variants, cpu_features()).isa}"
    except ArtifactError as error:
        return f"does not run on this CPU: {error.found}"


def _survey_gpu(offered: Mapping[str, CudaTargetInfo], api: Any) -> dict[str, str]:
    try:
        driver = Driver(api=api)
    except DeviceError as error:
        return dict.fromkeys(offered, f"does not run here: {error.what} ({error.found})")
    verdicts = {name: judge(info, driver.gpu) for name, info in offered.items()}
    driver.close()
    return {
        name: f"{'runs' if verdict.form else 'does not run'} on {driver.gpu.name}: {verdict.reason}"
        for name, verdict in verdicts.items()
    }


def _choose(artifact: Artifact, kinds: set[str], gpu_present: Callable[[], bool]) -> DeviceKind:
    if "cuda" in kinds and gpu_present():
        return "cuda"
    if "cuda" in kinds and "cpu" not in kinds:
        raise DeviceError(
            f"The artifact {artifact.path} is for GPUs, and this machine has none that can be used",
            expected=", ".join(artifact.manifest.targets),
            found="no NVIDIA GPU, no driver, or no package cuda-bindings",
            fix="check `nvidia-smi`, pip install 'warploom[cuda]', or compile the model with target='cpu'",
        )
    return "cpu"


def _open_cpu(artifact: Artifact, options: DeviceOptions) -> Device:
    from warploom.runtime.cpu import CpuDevice

    _refuse("memory_fraction", options.memory_fraction, "GPU")
    return CpuDevice(
        artifact,
        threads=options.threads,
        kv_bytes=options.kv_bytes,
        max_tokens=options.max_tokens,
        max_seqs=options.max_seqs,
    )


def _open_cuda(artifact: Artifact, options: DeviceOptions) -> Device:
    from warploom.runtime.cuda.device import CudaDevice

    _refuse("threads", options.threads, "CPU")
    return CudaDevice(
        artifact,
        max_tokens=options.max_tokens,
        max_seqs=options.max_seqs,
        num_drafts=options.num_drafts,
        kv_bytes=options.kv_bytes,
        memory_fraction=options.memory_fraction,
    )


def _refuse(option: str, value: object, kind: str) -> None:
    if value is not None:
        raise EngineError(f"The option {option} is for the {kind} only", found=str(value), fix=f"leave {option} out")
