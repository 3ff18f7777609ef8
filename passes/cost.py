"""How long a kernel takes: a roofline with the few terms that matter, per device; device facts are data.

    time = launch + serial + max(memory, compute) + 5 % of the smaller

memory: bytes over the measured read rate, or over the cache's where the kernel before has left all of them there;
compute: flops over the measured rate of matrix units (products, attention) or of vector units (everything else);
serial: what a kind of kernel waits for whatever its size, such as the passes of sampling over the logits. XLA's model
has such terms (xla/service/gpu/model/gpu_performance_model_base.h). Correctness never depends on it: it ranks and
explains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from warploom.errors import CompileError

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
        serial_us: by kind of group, microseconds.
        read_bytes, cache_bytes: rates of reading memory and what its last cache holds.
        cache_size: bytes that stay in that cache from one kernel to the next.
        matrix_flops: rates that our kernels reach on matrix units, by kind of group; others run on vector units.
    """

    name: str
    targets: tuple[str, ...]
    source: str
    launch_us: float
    serial_us: dict[str, float]
    read_bytes: float
    cache_bytes: float
    cache_size: float
    matrix_flops: dict[str, float]
    vector_flops: float


@dataclass(frozen=True)
class Work:
    """What one launch does. `kind` is that of its group."""

    kind: str
    bytes: float
    flops: float


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
    kind = LIKE.get(work.kind, work.kind)
    warm = work.bytes <= device.cache_size and kind not in COLD_KINDS
    rate = device.cache_bytes if warm else device.read_bytes
    flops = device.matrix_flops.get(kind, device.vector_flops)
    launch = device.launch_us + device.serial_us.get(kind, 0.0)
    return Cost(launch, 1e6 * work.bytes / rate, 1e6 * work.flops / flops)


def saved_us(separate: list[Work], fused: Work, device: Device) -> float:
    """Return what one launch saves over several, microseconds; negative where fusing costs time."""
    return sum(cost(work, device).us for work in separate) - cost(fused, device).us


@cache
def devices() -> tuple[Device, ...]:
    """Every device that we have measured: the files of `devices/`."""
    found = [json.loads(path.read_text()) for path in sorted(DEVICES.glob("*.json"))]
    return tuple(Device(**{**facts, "targets": tuple(facts["targets"])}) for facts in found)


def find_device(target: str) -> Device | None:
    """Return the device that stands for a target; targets of a kind share one where there is no other."""
    exact = [device for device in devices() if target in device.targets]
    like = [device for device in devices() if any(t.split(":")[0] == target.split(":")[0] for t in device.targets)]
    return next(iter([*exact, *like]), None)


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
