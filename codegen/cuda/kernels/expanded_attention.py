"""Attention of chunks of prompts over expanded keys (see `expansion.py`): FlashAttention-2 (Dao 2023), causal.

Blocks of tokens are numbered as in `ragged_attention.py`. What a token attends of rows as they are, which comes first,
is in `out` and its log-sum-exp (of base 2) in `lse`: the online softmax begins with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernel import Operand, Options, Pointer
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.kernels.ragged_attention import AttentionTile
from warploom.codegen.cuda.render import render
from warploom.codegen.names import identifier
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class ExpandedProblem:
    """out [T, heads, value] for queries of two parts: columns of a matrix, and [T, heads, rotated]."""

    expansion: Expansion
    queries: Range
    scale: float

    @property
    def name(self) -> str:
        """Readable and unique."""
        name = f"expanded_attention_{self.expansion.name}_q{self.queries}_scale_{self.scale.hex()}"
        return identifier(name)

    @property
    def inputs(self) -> tuple[Pointer, ...]:
        """Both parts of queries."""
        return Pointer("q", DType.BF16), Pointer("q_rope", DType.BF16)

    @property
    def batch(self) -> tuple[Pointer, ...]:
        """Where sequences and their tokens are, and what is attended before."""
        return *(Pointer(name, DType.I32) for name in ("query_start", "context_lens")), Pointer("lse", DType.F32)

    @property
    def flops(self) -> str:
        """Upper bound: each token attends its full page table."""
        e = self.expansion
        return f"{128 * e.num_heads * (e.plain + e.rotated + e.value)} * T * P"

    @property
    def bytes(self) -> str:
        """Keys and values, queries and the result once."""
        e = self.expansion
        row = e.rotated + e.num_heads * (e.plain + e.value)
        return f"{2 * row} * T + {2 * e.num_heads * (e.plain + e.rotated + e.value)} * T"


def expanded_tile(problem: ExpandedProblem, target: CudaTarget) -> AttentionTile:
    """The tile that fits registers and shared memory of the target."""
    wide = max(problem.expansion.plain + problem.expansion.rotated, problem.expansion.value) > 128
    if target.shared_bytes < 160 << 10:
        return AttentionTile(64, 32 if wide else 64, 4, 2)
    return AttentionTile(128, 64, 8, 3)


@dataclass(frozen=True, slots=True)
class ExpandedAttentionSpec(OfPages):
    """For any T and S; rows of tokens all of whose keys are attended as they are stay what they are."""

    problem: ExpandedProblem
    tile: AttentionTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        return f"{self.problem.name}_{t.rows}x{t.keys}_w{t.num_warps}_s{t.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        p = self.problem
        return (*p.inputs, *p.expansion.operands, *p.batch, Pointer("out", DType.BF16))

    @property
    def grid(self) -> tuple[int, str, int]:
        return self.problem.expansion.num_heads, f"T // {self.tile.rows} + S + 1", 1

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        e = self.problem.expansion
        return render(
            "expanded_attention.py.j2",
            spec=self,
            p=self.problem,
            e=e,
            fewest=FEWEST,
            aligned=ALIGNED,
            scale=self.problem.scale * LOG2_E,
            block_k=padded(e.plain),
            block_v=padded(e.value),
            block_r=padded(e.rotated),
        )

    def __str__(self) -> str:
        e = self.problem.expansion
        return f"attention of {e.num_heads} heads over expanded keys of {e.plain} + {e.rotated} and values of {e.value}"
