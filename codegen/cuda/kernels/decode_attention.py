"""Attention of few tokens over long contexts: keys are split among blocks (flash-decoding, Dao et al. 2023).

A block takes one token, one kv head with all query heads that share it (rows of one matrix product, padded to 16), and
a run of pages; the last block of a token and kv head to finish combines the parts, in their order. A token whose pages
one block holds is written directly. The number of blocks depends on S and P only, so that a captured graph serves all
contexts: blocks without pages end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Options, Pointer, Temp
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

MAX_SPLITS = 32
BLOCKS = 512  # about what an H100 holds at once: more would wait for those, and mostly have nothing to do
MIN_PAGES = 4  # of a block: reading less takes less time than combining


@dataclass(frozen=True, slots=True)
class DecodeAttentionSpec:
    """out [T, num_heads, head_dim], for T up to S."""

    problem: AttentionProblem
    num_stages: int
    pdl: bool

    @property
    def name(self) -> str:
        return f"decode_{self.problem.name}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        parts = Pointer("parts", DType.F32), Pointer("statistics", DType.F32), Pointer("counters", DType.I32)
        return (*self.problem.inputs, *parts, Pointer("out", DType.BF16))

    @property
    def temps(self) -> tuple[Temp, ...]:
        """parts: sums of weighted values; statistics: largest score and sum of weights; counters: blocks done."""
        p = self.problem
        slots = f"S+{self.blocks}"  # S * splits is at most the larger of the two
        return (
            Temp(tensor((slots, p.num_heads, p.head_dim), DType.F32)),
            Temp(tensor((slots, p.num_heads, 2), DType.F32)),
            Temp(tensor(("S", p.num_kv_heads), DType.I32), zeroed=True),
        )

    @property
    def dims(self) -> tuple[str, ...]:
        return "T", "S", "P"

    @property
    def blocks(self) -> int:
        """Tokens times splits that fill the GPU."""
        return max(1, BLOCKS // self.problem.num_kv_heads)

    @property
    def splits(self) -> str:
        """Blocks that a token and kv head has."""
        return f"max(1, min({MAX_SPLITS}, {self.blocks} // S, (P + {MIN_PAGES - 1}) // {MIN_PAGES}))"

    @property
    def grid(self) -> tuple[int, str, str]:
        return self.problem.num_kv_heads, "T", self.splits

    @property
    def options(self) -> Options:
        return Options(num_warps=4, num_stages=self.num_stages, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return self.problem.flops

    @property
    def bytes(self) -> str:
        return self.problem.bytes

    def source(self) -> str:
        return render(
            "decode_attention.py.j2",
            spec=self,
            p=self.problem,
            page_size=PAGE_SIZE,
            rows=max(16, 1 << (self.problem.group - 1).bit_length()),
            max_splits=MAX_SPLITS,
            min_pages=MIN_PAGES,
        )

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, keys split"
