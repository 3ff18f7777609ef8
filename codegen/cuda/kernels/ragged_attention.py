"""Attention of ragged chunks of prompts: FlashAttention-2 (Dao 2023) over pages.

A block takes consecutive tokens of one sequence times the query heads of one kv head (rows of the matrix products), and
runs over the keys that they see. Blocks are numbered so that no list of them is needed: those of sequence s begin at
query_start[s] // block_t + s, which leaves room for all of its tokens. Padding tokens are a last sequence, whose blocks
write zeros.

A row's float operations depend on its own position and window alone: blocks of keys are at absolute positions, and one
that is masked for a row multiplies its state by 1 and adds 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E, AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Rows (tokens times heads) and keys of a block, and how it is compiled."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


def tile_for(problem: AttentionProblem, target: CudaTarget) -> AttentionTile:
    """The tile that fits registers and shared memory of the target, with the loads of two blocks of keys in flight."""
    is_large = target.shared_bytes >= 160 << 10
    if problem.block_d > 128:
        if target.has_wgmma and problem.kv is not DType.BF16 and not problem.window:  # widening takes registers
            return AttentionTile(32, 64, 4, 2)
        return AttentionTile(64, 64, 8, 2 if is_large else 1)
    if problem.kv is DType.I8:
        return AttentionTile(128, 64, 8, 3)
    if not is_large:
        return AttentionTile(64, 64, 4, 2)
    return AttentionTile(128, 128, 8, 3) if target.has_wgmma else AttentionTile(128, 64, 8, 3)


@dataclass(frozen=True, slots=True)
class RaggedAttentionSpec(OfPages):
    """out [T, num_heads, head_dim], for any T and S."""

    problem: AttentionProblem
    tile: AttentionTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        return f"ragged_{self.problem.name}_{t.rows}x{t.keys}_w{t.num_warps}_s{t.num_stages}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return (*self.problem.query_inputs, *self.problem.page_inputs, Pointer("out", DType.BF16))

    @property
    def block_t(self) -> int:
        """Tokens of a block."""
        return self.tile.rows // self.problem.group

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"T // {self.block_t} + S + 1", self.problem.num_kv_heads, 1

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        return render("ragged_attention.py.j2", spec=self, p=self.problem, page_size=PAGE_SIZE, log2_e=LOG2_E)

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, ragged"
