"""GPU architectures and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.errors import CompileError
from warploom.ir.types import DType

REGISTERS = 65536  # of one multiprocessor, on every architecture we know
MAX_REGISTERS = 255  # of one thread
H100_MULTIPROCESSORS = 132  # of the SXM board, on which kernels were measured

# Shared memory that a block may ask for: CUDA C++ Programming Guide, table "Technical Specifications per Compute
# Capability".
_SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
FIRST_WITH_F8 = 89  # compute capability
ARCHITECTURES = tuple(f"sm_{capability}" for capability in _SHARED_BYTES)


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """What kernels are made for.

    Attributes:
        arch: such as `sm_90`.
        deterministic: a row's numbers do not depend on the rest of the batch.
        excluded: names of kernels that were compiled and need more than the architecture has: others are chosen.
    """

    arch: str
    deterministic: bool = False
    excluded: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise CompileError(f"cannot compile for {self.arch}", expected=", ".join(ARCHITECTURES), found=self.arch)

    @property
    def capability(self) -> int:
        """Ten times the compute capability: 90."""
        return int(self.arch.removeprefix("sm_"))

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block may have."""
        return _SHARED_BYTES[self.capability]

    @property
    def has_tma(self) -> bool:
        """Whether tensor maps and programmatic dependent launch exist: sm_90 and later."""
        return self.capability >= 90

    @property
    def has_wgmma(self) -> bool:
        """Whether matrix products of 64 rows per warp group exist: Hopper's own."""
        return self.capability == 90

    @property
    def has_f8(self) -> bool:
        """Whether numbers of f8 (E4M3) exist."""
        return self.capability >= FIRST_WITH_F8

    def refuses(self, dtype: DType) -> str | None:
        """Why no kernel reads numbers of a dtype, or None."""
        if dtype is DType.F8 and not self.has_f8:
            return f"{self.arch} has no numbers of f8; sm_{FIRST_WITH_F8} is the first that has"
        return None
