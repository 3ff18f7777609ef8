"""Decodes over latent rows of 8 bits on Hopper: rows are widened once, into shared memory, for both products.

Matrix units take 64 rows at least, so keys and latents are the rows of the products and heads their columns: scores are
[keys, heads], sums [latent, heads]. Numbers come by asynchronous copies two pages ahead; the thread that asked for them
widens them, times the powers of their runs, which is exact in bf16 (int8) and f16 (E4M3).
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E
from warploom.codegen.cuda.kernels.latent_attention import LatentAttentionSpec, LatentTile
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.ops.latent_rows import RUN

# Measured on an H100, 16 heads, 32 tokens of 8192 rows: int8 101 us, FP8 114; by eight warps 105 and 123; by the kernel
# that other GPUs have 122 and 119, of bf16 rows 110.
TILE = LatentTile(1, 16, PAGE_SIZE, 4, 3, blocks=132)
LARGEST = 512  # latent: rows of a page as they are, three times, and widened fill shared memory


@dataclass(frozen=True, slots=True)
class HopperLatentDecodeSpec(LatentAttentionSpec):
    """As its base, with split keys."""

    @property
    def name(self) -> str:
        return f"hopper_{super(HopperLatentDecodeSpec, self).name}"

    def source(self) -> str:
        p = self.problem
        return render(
            "hopper_latent_decode.py.j2",
            spec=self,
            p=p,
            f=p.format,
            run=RUN,
            groups=self.tile.num_warps // 4,
            page_size=PAGE_SIZE,
            scale=p.scale * LOG2_E,
        )

    def __str__(self) -> str:
        return f"{super(HopperLatentDecodeSpec, self).__str__()}, widened in shared memory"


def takes(problem: LatentProblem, target: CudaTarget) -> bool:
    """Whether this kernel computes decodes: rows of DeepSeek's sizes, of 8 bits."""
    runs_fit = problem.latent % RUN == 0 and RUN < problem.latent <= LARGEST and problem.rotated == 64
    return target.has_wgmma and bool(problem.format.powers) and runs_fit
