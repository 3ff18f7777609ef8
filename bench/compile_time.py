"""Time and peak memory of `warploom compile`, child processes included, beside the limits that we promise.

    python bench/compile_time.py [MODEL] [--quantization bf16]

MODEL: as for `warploom compile`; default: SmolLM2-135M-Instruct as GGUF from the Python package index.
Memory is the sum of the proportional set sizes (PSS) of the process and its children, looked at every 50 ms; pages of
the mapped checkpoint count. Exit code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

SECONDS, BYTES = 30.0, 2 << 30


def tree(root: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    found = [root]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def memory_of(root: int) -> int:
    """Return the bytes of a process and all its descendants."""
    total = 0
    for process in tree(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds and its peak bytes."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                peak = max(peak, memory_of(process.pid))
            except OSError:
                continue
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, peak


def default_model() -> Path:
    """Return the quickstart's model, downloaded if need be."""
    from warploom.frontend.quickstart_model import fetch_smollm2_gguf

    return fetch_smollm2_gguf(Path(".warploom/models"))


def main() -> int:
    """Compile once and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--quantization", default="bf16")
    args = parser.parse_args()
    model = args.model or default_model()
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "warploom.tools.cli", "compile", str(model), "-o", f"{folder}/artifact"]
        seconds, peak = measure([*command, "--quantization", args.quantization])
    print(f"compile {model} ({args.quantization}): {seconds:.1f} s (limit {SECONDS:.0f} s), "
          f"peak {peak / 2**30:.2f} GiB (limit {BYTES / 2**30:.0f} GiB)")  # fmt: skip
    return int(seconds > SECONDS or peak > BYTES)


if __name__ == "__main__":
    sys.exit(main())
