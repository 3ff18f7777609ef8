"""Facts about this machine (Linux): CPU features, cores that this process may use, free memory."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpu_features() -> frozenset[str]:
    """Return the CPU's feature flags, as `/proc/cpuinfo` names them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def num_cores() -> int:
    """Return how many physical cores this process may use: its affinity, less if a cgroup quota (v2) says so.

    Two hardware threads of one core count once: they share the vector units and caches that we keep busy.
    """
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        return max(1, min(len(cores), int(quota) // int(period)))
    return len(cores)


def available_memory() -> int:
    """Return the bytes that can be allocated without swapping, within the cgroup's limit (v2)."""
    amounts = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            amounts.append(int(line.split()[1]) * 1024)
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        amounts.append(max(0, int(limit) - int(used)))
    return min(amounts)


def _siblings(cpu: int) -> str:
    """Return the name of the core that `cpu` belongs to; the cpu itself where the kernel does not say."""
    return _read(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")) or str(cpu)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
