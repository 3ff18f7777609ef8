"""Attention of few tokens over long contexts: keys are split among blocks (flash-decoding, Dao et al. 2023).

A block takes one token, one kv head with all query heads that share it (rows of one matrix product, padded to 16), and
a run of pages; the last block of a token and kv head to finish combines the parts, in their order. A token whose pages
one block holds is written directly. The number of blocks depends on S and P only, so that a captured graph serves all
contexts: blocks without pages end at once.

With a projection the kernel is all that attention does in a step: it rotates q, and the block that holds the end of a
token's run rotates and writes its key and value. It reads those of this step's tokens where the projection left them,
not from the cache, so that no block waits for another; which relies on `slots` being the places of the tokens in their
sequences (or negative), as those of `@step` are.

Then the first keys of a block's run may be loaded before the previous kernel is waited for, as `early` says. They are
of earlier steps, whose kernels have ended: the inputs of a step are copied before its first kernel starts, and a copy
waits for all that was enqueued before it (programmatic dependent launch is between neighbouring kernels only). In this
step rows of this layer are written by this kernel alone, and only those of `slots`: no sequence reads them from the
cache, for they are at or beyond what each sequence has of earlier steps, in pages that no two sequences share unless
they are full. So at short contexts nothing is waited for but q, and one block a head needs no combining. The next
kernel may start when those keys are there: before, they would queue behind the weights that it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from warploom.codegen.cuda.architecture import H100_MULTIPROCESSORS, CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, padded
from warploom.codegen.cuda.kernel import Options, Pointer, Temp
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E, AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

MAX_SPLITS = 32
EARLY_BYTES = 128 << 10  # of keys and values, in 16 bits as they are multiplied, that a block loads early
COMBINED_AT_ONCE = 64  # numbers of a thread


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """How a decode is cut into blocks.

    Attributes:
        blocks: about as many as the GPU holds at once; more would wait for those, and mostly have nothing to do.
        min_keys: of a block: reading less takes less time than combining.
        maxnreg: cap on the registers of a thread, where that lets all blocks be held.
        early: keys that a block loads before it waits for the previous kernel; 0: none, as without a projection.
    """

    blocks: int = 512
    min_keys: int = 256
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None
    early: int = 0


def decode_tile_for(problem: AttentionProblem, target: CudaTarget) -> DecodeTile:
    """As many pages in flight as leave room for two blocks on a multiprocessor, at most three.

    On Hopper kernels of i8 caches, which take 150 registers, do with 128: 528 instead of 396 blocks are held at once
    (Llama-3.1-8B, 32 sequences of 8192: a step takes 12.6 instead of 13.3 ms; see `few_sequences` for one). Those of
    f8 with heads of 128 have two pages in flight (in FP8, 128 sequences of 256: 5.56 instead of 5.61 ms; a quarter of
    the layers, of 2048: 3.06 instead of 3.10; 32 take the same).
    """
    page_bytes = 2 * 2 * PAGE_SIZE * problem.block_d
    ahead = (target.shared_bytes - (12 << 10)) // 2 // page_bytes
    is_capped = problem.kv is DType.I8 and problem.block_d <= 128 and target.has_wgmma
    most = 2 if problem.kv is DType.F8 and problem.head_dim == 128 and target.has_wgmma else 3
    return DecodeTile(num_stages=1 + max(1, min(most, ahead)), maxnreg=128 if is_capped else None)


def few_sequences(problem: AttentionProblem, target: CudaTarget) -> tuple[int, DecodeTile] | None:
    """Up to how many sequences another tile is faster, and that tile.

    On Hopper, with a projection: one block on a multiprocessor, which loads 128 KiB of keys and values early. For
    sequences of 256 and of 8192 a step of Llama-3.1-8B in bf16 takes 5.00 and 5.61 ms for one (5.29 and 5.78 without),
    5.58 and 11.1 for 16 (5.73 and 11.3), 5.97 and 16.9 for 32 (6.01 and 17.1). What 8-bit caches save in bytes they
    need in warps that widen, and few are on a multiprocessor then: 8 sequences of 8192 are slower. Heads of 64 and
    less, with which this was not timed, keep their tile.

    Else kernels whose registers are capped, without the cap: one sequence of 8192 takes 5.6 instead of 5.9 ms.
    """
    tile = decode_tile_for(problem, target)
    if problem.projection is not None and target.has_wgmma and problem.block_d >= 128:
        early = min(tile.min_keys, EARLY_BYTES // (2 * 2 * problem.block_d))
        ahead = min(4, EARLY_BYTES // (2 * 2 * problem.block_d * PAGE_SIZE))
        few = DecodeTile(H100_MULTIPROCESSORS, num_warps=8, num_stages=1 + ahead, early=early)
        most = 2 * H100_MULTIPROCESSORS // problem.num_kv_heads if problem.kv is DType.BF16 else 1
        return most, few
    if tile.maxnreg is not None:
        return tile.blocks * 3 // 4 // (MAX_SPLITS * problem.num_kv_heads), replace(tile, maxnreg=None)
    return None


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
        early = f"_e{self.early}" if self.early else ""
        return f"decode_{self.problem.name}_m{t.min_keys}_b{t.blocks}_w{t.num_warps}_s{t.num_stages}{cap}{early}"

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
    def early(self) -> int:
        """Keys that are loaded before the previous kernel is waited for; of this step there must be none among them."""
        return self.tile.early if self.problem.projection else 0

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, self.tile.maxnreg, self.pdl)

    def source(self) -> str:
        combined = next_power_of_2(self.problem.group)
        at_once = COMBINED_AT_ONCE * 32 * self.tile.num_warps // (combined * self.problem.block_d)
        return render(
            "decode_attention.py.j2",
            spec=self,
            p=self.problem,
            page_size=PAGE_SIZE,
            rows=padded(self.problem.group),
            max_splits=MAX_SPLITS,
            combined=combined,
            at_once=min(MAX_SPLITS, at_once),
            log2_e=LOG2_E,
        )

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, keys split"
