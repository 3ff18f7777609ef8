"""What every benchmark prints first: on which machine it ran, and how busy that was."""

from __future__ import annotations

import os
from pathlib import Path


def describe() -> str:
    """Return the CPU's name, the cores that this process may use, memory, and the load average."""
    info = Path("/proc/cpuinfo").read_text()
    name = next(line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return f"machine: {name}, {cores} cores, {memory / 2**30:.0f} GiB; load average {os.getloadavg()[0]:.2f}"
