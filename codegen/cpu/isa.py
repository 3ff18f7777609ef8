"""Instruction-set levels: what LLVM may use, what the CPU must have, and how many registers a tile can fill.

Whether this machine has a level is the runtime's question (it compares `features` with /proc/cpuinfo).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Isa:
    """One level.

    `cpu` is LLVM's -mcpu, `extensions` what LLVM may use beyond it; `features` are the /proc/cpuinfo flags that code of
    this level needs, all of them; `vector_registers` counts registers of `vector_bits`.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    extensions: tuple[str, ...] = ()

    @property
    def has_vnni(self) -> bool:
        """Whether vpdpbusd of 512 bits is there."""
        return "avx512vnni" in self.extensions

    @property
    def accumulators(self) -> int:
        """How many values of 16 f32 lanes a loop can keep in registers, two such values being left for operands."""
        return self.vector_registers * self.vector_bits // 512 - 2


_V3_FLAGS = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")

X86_64_V3 = Isa("x86-64-v3", "x86-64-v3", _V3_FLAGS, vector_bits=256, vector_registers=16)
X86_64_V4 = Isa(
    "x86-64-v4",
    "x86-64-v4",
    (*_V3_FLAGS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"),
    vector_bits=512,
    vector_registers=32,
    extensions=("avx512vnni",),  # all such CPUs have it but the first, of 2017, which take the level below
)

LEVELS = (X86_64_V4, X86_64_V3)  # best first: the order in which a loader tries them
