"""How long a kernel takes: a roofline with the few terms that matter, per device; device facts are data.

    time = launch + serial + max(memory, compute) + 5 % of the smaller

memory: bytes over the measured read rate, or over the cache's where the kernel before has left all of them there;
compute: flops over the measured rate of matrix units (products, attention) or of vector units (everything else);
serial: what a kind of kernel waits for whatever its size, such as the passes of sampling over the logits. XLA's model
has such terms (xla/service/gpu/model/gpu_performance_model_base.h). Of a launch on a GPU whose blocks are known, what
these wait for counts too (see `blocks`): a plan knows them, a fusion pass does not yet. Correctness never depends on
it: it ranks and explains. `bench/cost_model.py` fits it, and judges it on models that it was not fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from warploom.errors import CompileError
from warploom.passes.blocks import Blocks, Multiprocessors, Product, Waits, waits_of_attention, waits_of_product

DEVICES = Path(__file__).parent / "devices"
HIDDEN = 0.95  # of the smaller of memory and compute time that overlaps with the other
COLD_KINDS = frozenset({"linear", "attention", "embed"})  # read weights or the KV cache, which no kernel has just left
# Kinds that no device has been measured with; they are taken for those that they are made like.
LIKE = {
    "absorbed_attention": "attention",
    "expert_linear": "linear",
    "expert_mlp": "linear",
    "head_linear": "linear",
    "latent_attention": "attention",
}


@dataclass(frozen=True)
class Device:
    """What a device can do, measured; rates are per second.

    Attributes:
        targets: names of the targets that it stands for.
        source: where the figures come from.
        launch_us: of one kernel, microseconds, with its start and its end.
        hidden_us: of that, where kernels follow each other at once.
        serial_us: by kind of group, microseconds.
        read_bytes, staged_bytes, cache_bytes: rates of reading memory, the same on its way through shared memory, and
            what its last cache holds.
        cache_size: bytes that stay in that cache from one kernel to the next.
        matrix_flops: rates that our kernels reach on matrix units, by kind of group, `linear f8e4m3` where numbers
            matter; others run on vector units.
        vector_flops: by kind; `*`: of the others.
        most_flops: of matrix units by dtype: the limit that `bench step` shows.
        most_bytes: of memory: the same.
        gpu: its multiprocessors, if it has some.
    """

    name: str
    targets: tuple[str, ...]
    source: str
    launch_us: float
    hidden_us: float
    serial_us: dict[str, float]
    read_bytes: float
    staged_bytes: float
    cache_bytes: float
    cache_size: float
    matrix_flops: dict[str, float]
    vector_flops: dict[str, float]
    most_bytes: float
    most_flops: dict[str, float]
    gpu: Multiprocessors | None = None


@dataclass(frozen=True)
class Work:
    """What one launch does.

    Attributes:
        kind: of its group, or of the kernel if that is a helper, with a word more where that takes longer: `loops sin`.
        product: what is multiplied, if that is known.
        blocks: how it is launched, on a GPU, if that is known.
        phases: after which all blocks wait for each other; 0: they never do.
    """

    kind: str
    bytes: float
    flops: float
    product: Product | None = None
    blocks: Blocks | None = None
    phases: int = 0


@dataclass(frozen=True)
class Cost:
    """A predicted time, microseconds, and its parts; the launch with what is serial."""

    launch_us: float
    memory_us: float
    compute_us: float

    @property
    def us(self) -> float:
        """The whole."""
        smaller, larger = sorted((self.memory_us, self.compute_us))
        return self.launch_us + larger + (1 - HIDDEN) * smaller

    @property
    def bound(self) -> str:
        """What the time goes to: `launch`, `memory` or `compute`."""
        parts = {"launch": self.launch_us, "memory": self.memory_us, "compute": self.compute_us}
        return max(parts, key=lambda part: parts[part])

    def explain(self) -> str:
        """The parts, on one line."""
        return (
            f"{self.us:.1f} us: launch {self.launch_us:.1f}, memory {self.memory_us:.1f}, "
            f"compute {self.compute_us:.1f} ({self.bound} bound)"
        )


def cost(work: Work, device: Device) -> Cost:
    """Return the predicted time of one launch."""
    kind, _, detail = work.kind.partition(" ")
    kind = LIKE.get(kind, kind)
    waits = _waits(kind, work, device)
    warm = work.bytes <= device.cache_size and kind not in COLD_KINDS
    rate = device.staged_bytes if waits.staged else device.cache_bytes if warm else device.read_bytes
    begun = work.blocks.count / device.gpu.begun_blocks if device.gpu and work.blocks else 0.0
    serial = device.serial_us.get(f"{kind} {detail}".strip(), 0.0) * max(1, work.phases)
    return Cost(
        launch_us=device.launch_us + serial + 1e6 * waits.serial,
        memory_us=1e6 * max(work.bytes / rate, waits.memory),
        compute_us=1e6 * max(work.flops / _flops(kind, work, device) * waits.slower, waits.compute, begun),
    )


def _flops(kind: str, work: Work, device: Device) -> float:
    """The rate for a kind."""
    if work.product is not None and (fast := f"{kind} {work.product.numbers}") in device.matrix_flops:
        return device.matrix_flops[fast]
    return device.matrix_flops.get(kind) or device.vector_flops.get(kind) or device.vector_flops["*"]


def _waits(kind: str, work: Work, device: Device) -> Waits:
    """What the blocks wait for; nothing where they are not known."""
    if device.gpu is None or work.blocks is None or work.product is None:
        return Waits()
    waits = waits_of_attention if kind == "attention" else waits_of_product
    return waits(work.product, work.blocks, device.gpu)


def step_us(works: Iterable[Work], device: Device) -> float:
    """Return the predicted time of launches in a row: each begins while the one before ends."""
    return sum(cost(work, device).us - device.hidden_us for work in works)


def saved_us(separate: list[Work], fused: Work, device: Device) -> float:
    """Return what one launch saves over several, microseconds; negative where fusing costs time."""
    return sum(cost(work, device).us for work in separate) - cost(fused, device).us


@cache
def devices() -> tuple[Device, ...]:
    """Every device that we have measured: the files of `devices/`."""
    found = [json.loads(path.read_text()) for path in sorted(DEVICES.glob("*.json"))]
    return tuple(device_from(facts) for facts in found)


def device_from(facts: dict[str, Any]) -> Device:
    """Return a device of a file's facts."""
    gpu = Multiprocessors(**facts["gpu"]) if "gpu" in facts else None
    return Device(**{**facts, "targets": tuple(facts["targets"]), "gpu": gpu})


def find_device(target: str) -> Device | None:
    """Return the device that stands for a target; targets of a kind share one where there is no other."""
    exact = [device for device in devices() if target in device.targets]
    like = [device for device in devices() if any(t.split(":")[0] == target.split(":")[0] for t in device.targets)]
    return next(iter([*exact, *like]), None)


def device_named(name: str) -> Device | None:
    """Return the device that calls itself so, if it was measured itself."""
    return next((device for device in devices() if device.name == name), None)


def device_of(target: str) -> Device:
    """Return the device that stands for a target.

    Raises:
        CompileError: no device of that kind was measured.
    """
    found = find_device(target)
    if found is None:
        known = ", ".join(name for device in devices() for name in device.targets)
        raise CompileError(f"no device was measured for {target}", expected=known, found=target)
    return found
