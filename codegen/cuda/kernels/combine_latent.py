"""The parts of tokens whose keys `latent_attention.py` split, put together.

A row of 512 numbers per head and part is too much for the last block of a token alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.latent_attention import MAX_SPLITS, LatentAttentionSpec
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

PARTS = 8  # of a head that are put together at once


@dataclass(frozen=True, slots=True)
class CombineSpec:
    """out [T, num_heads, latent] of parts and statistics, for tokens whose keys were split."""

    attention: LatentAttentionSpec

    @property
    def name(self) -> str:
        return f"combine_{self.attention.name}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return (*self.attention.scratch, *self.attention.problem.batch[1:], Pointer("out", DType.BF16))

    @property
    def dims(self) -> tuple[str, ...]:
        return self.attention.dims

    @property
    def grid(self) -> tuple[int, str, int]:
        p = self.attention.problem
        return p.num_heads, "T", 1

    @property
    def options(self) -> Options:
        return Options(4, pdl=self.attention.pdl)

    @property
    def flops(self) -> str:
        p = self.attention.problem
        return f"{2 * p.num_heads * p.latent} * T * {self.attention.splits}"

    @property
    def bytes(self) -> str:
        p = self.attention.problem
        return f"T * {p.num_heads * p.latent} * (2 + 4 * {self.attention.splits})"

    def source(self) -> str:
        spec = self.attention
        return render(
            "combine_latent.py.j2",
            spec=self,
            p=spec.problem,
            t=spec.tile,
            pages=spec.min_pages,
            block_l=padded(spec.problem.latent),
            parts=PARTS,
            max_splits=MAX_SPLITS,
        )

    def __str__(self) -> str:
        p = self.attention.problem
        return f"parts of attention of {p.num_heads} heads of {p.latent} put together"
