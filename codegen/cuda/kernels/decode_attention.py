"""Attention of few tokens over long contexts: keys are split among blocks (flash-decoding, Dao et al. 2023).

A block takes one token, one kv head with all query heads that share it (rows of one matrix product, padded to 16), and
a run of pages; the last block of a token and kv head to finish combines the parts, in their order. A token whose pages
one block holds is written directly. The number of blocks depends on S and P only, so that a captured graph serves all
contexts: blocks without pages end at once.

With a projection the kernel is all that attention does in a step: it rotates q, and the block that holds the end of a
token's run rotates and writes its key and value. It reads those of this step's tokens where the projection left them,
not from the cache, so that no block waits for another; which relies on `slots` being the places of the tokens in their
sequences (or negative), as those of `@step` are.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Options, Pointer, Temp
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E, AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

MAX_SPLITS = 32


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """How a decode is cut into blocks.

    Attributes:
        blocks: about as many as the GPU holds at once; more would wait for those, and mostly have nothing to do.
        min_keys: of a block: reading less takes less time than combining.
        maxnreg: cap on the registers of a thread, where that lets all blocks be held.
    """

    blocks: int = 512
    min_keys: int = 256
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None


def decode_tile_for(problem: AttentionProblem, target: CudaTarget) -> DecodeTile:
    """As many pages in flight as leave room for two blocks on a multiprocessor, at most three.

    On Hopper kernels of i8 caches, which take 150 registers, do with 128: 528 instead of 396 blocks are held at once
    (Llama-3.1-8B, 32 sequences of 8192: a step takes 12.6 instead of 13.3 ms; see `few_sequences` for one).
    """
    page_bytes = 2 * 2 * PAGE_SIZE * problem.block_d
    ahead = (target.shared_bytes - (12 << 10)) // 2 // page_bytes
    is_capped = problem.kv is DType.I8 and problem.block_d <= 128 and target.has_wgmma
    return DecodeTile(num_stages=1 + max(1, min(3, ahead)), maxnreg=128 if is_capped else None)


def few_sequences(tile: DecodeTile, problem: AttentionProblem) -> int:
    """Up to how many sequences a kernel without the cap on registers holds all of its blocks as well.

    It is faster then: a step of one sequence of 8192 takes 5.6 instead of 5.9 ms.
    """
    return 0 if tile.maxnreg is None else tile.blocks * 3 // 4 // (MAX_SPLITS * problem.num_kv_heads)


@dataclass(frozen=True, slots=True)
class DecodeAttentionSpec(OfPages):
    """out [T, num_heads, head_dim], for T up to S."""

    problem: AttentionProblem
    tile: DecodeTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        cap = "" if t.maxnreg is None else f"_r{t.maxnreg}"
        return f"decode_{self.problem.name}_m{t.min_keys}_b{t.blocks}_w{t.num_warps}_s{t.num_stages}{cap}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        fresh = [Pointer("k", DType.BF16), Pointer("v", DType.BF16)] if self.problem.projection else []
        slots = [Pointer("slots", DType.I32)] if self.problem.projection else []
        q, *angles = self.problem.query_inputs
        return (q, *fresh, *angles, *slots, *self.problem.page_inputs, *self.scratch, Pointer("out", DType.BF16))

    @property
    def scratch(self) -> tuple[Pointer, ...]:
        """The operands that `temps` are."""
        return Pointer("parts", DType.F32), Pointer("statistics", DType.F32), Pointer("counters", DType.I32)

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
    def blocks(self) -> int:
        """Tokens times splits that fill the GPU."""
        return max(1, self.tile.blocks // self.problem.num_kv_heads)

    @property
    def splits(self) -> str:
        """Blocks that a token and kv head has."""
        pages = self.tile.min_keys // PAGE_SIZE
        return f"max(1, min({MAX_SPLITS}, {self.blocks} // S, (P + {pages - 1}) // {pages}))"

    @property
    def grid(self) -> tuple[int, str, str]:
        return self.problem.num_kv_heads, "T", self.splits

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, self.tile.maxnreg, self.pdl)

    def source(self) -> str:
        return render(
            "decode_attention.py.j2",
            spec=self,
            p=self.problem,
            page_size=PAGE_SIZE,
            rows=max(16, 1 << (self.problem.group - 1).bit_length()),
            max_splits=MAX_SPLITS,
            log2_e=LOG2_E,
        )

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, keys split"
