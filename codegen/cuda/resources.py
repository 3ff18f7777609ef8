"""What a compiled kernel uses of a multiprocessor, and whether the architecture has it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from warploom.codegen.cuda.architecture import MAX_REGISTERS, REGISTERS, CudaTarget
from warploom.errors import CompileError

SPILL_LIMIT = 128  # bytes per thread: what hides in L1; more means that the tile is too large
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one kernel: warps and shared bytes of a block, registers and spilled bytes of a thread."""

    num_warps: int
    shared_bytes: int
    registers: int
    spill_bytes: int

    def excess(self, target: CudaTarget) -> str | None:
        """What of it the architecture does not have, or None."""
        if self.shared_bytes > target.shared_bytes:
            return f"{self.shared_bytes} bytes of shared memory, {target.arch} has {target.shared_bytes}"
        if self.registers > MAX_REGISTERS or self.registers * self.num_warps * 32 > REGISTERS:
            return (
                f"{self.registers} registers for each of {self.num_warps * 32} threads, {target.arch} has {REGISTERS}"
            )
        if self.spill_bytes > SPILL_LIMIT:
            return f"{self.spill_bytes} bytes of registers spilled per thread, at most {SPILL_LIMIT} are sensible"
        return None


def registers_of(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes per thread of the kernel in a cubin, as `cuobjdump` of the triton wheel reads them.

    Raises:
        CompileError: the tool is missing or prints something else.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([_cuobjdump(), "-res-usage", file.name], capture_output=True, text=True, check=False)
    found = _USAGE.search(run.stdout)
    if run.returncode or found is None:
        raise CompileError("cuobjdump cannot read a compiled kernel", found=(run.stderr or run.stdout).strip())
    return int(found[1]), int(found[2])


@cache
def _cuobjdump() -> Path:
    package = importlib.util.find_spec("triton")
    if package is None or package.origin is None:
        raise CompileError(
            "compiling for CUDA needs the package triton", fix="pip install 'warploom[compile-cuda]' on a Linux machine"
        )
    return Path(package.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
