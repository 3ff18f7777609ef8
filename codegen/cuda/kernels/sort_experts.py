"""Pairs of token and choice in the order of their experts, and the blocks that the sorted product computes.

A block of the grid is an expert. It counts how many pairs each expert has, so that it knows where its own begin, and
writes down its own. Nothing depends on the order in which blocks run.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

CHUNK = 2048  # pairs that are read at once
FEWEST_BINS = 32  # of Triton's histogram


@dataclass(frozen=True, slots=True)
class SortExpertsSpec:
    """order i32 [T * choices]: pairs by expert, in their own order; blocks i32 [1 + 3 * most blocks].

    blocks holds how many there are, and then of each: its expert, its first place in `order`, and where its expert's
    places end. A block has `block_t` places, the last one of an expert maybe fewer.
    """

    experts: int
    choices: int
    block_t: int
    pdl: bool

    @property
    def name(self) -> str:
        return f"sort_{self.choices}of{self.experts}_by_{self.block_t}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return tuple(Pointer(name, DType.I32) for name in ("experts", "order", "blocks"))

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"{self.experts} * min(T, 1)", 1, 1

    @property
    def most_blocks(self) -> str:
        """A bound on the blocks: every expert that is met has one that is not full, at most."""
        return f"min({self.choices} * T, {self.experts}) + {self.choices} * T // {self.block_t}"

    @property
    def bins(self) -> int:
        """Counters, a power of two."""
        return max(FEWEST_BINS, next_power_of_2(self.experts))

    @property
    def options(self) -> Options:
        return Options(num_warps=8, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return "0"

    @property
    def bytes(self) -> str:
        return f"{8 * self.choices} * T"

    def source(self) -> str:
        return render("sort_experts.py.j2", spec=self, chunk=CHUNK)

    def __str__(self) -> str:
        return f"tokens in the order of their {self.choices} of {self.experts} experts, in blocks of {self.block_t}"
