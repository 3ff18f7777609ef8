"""Attention over latent rows: of ragged chunks of prompts, and of decodes whose keys are split.

A block takes a few tokens of one sequence times a block of heads (rows of the products, padded to 16 at least) and runs
over rows of the cache, each of which it loads once: as a key for the scores, as a value for the sums. Blocks of ragged
tokens are numbered as in `ragged_attention.py`, keys are split as in `decode_attention.py`, but that the parts are put
together by a kernel of their own (`combine_latent.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, padded
from warploom.codegen.cuda.kernel import Options, Pointer, Temp
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

MAX_SPLITS = 32


@dataclass(frozen=True, slots=True)
class LatentTile:
    """Tokens, heads and keys of a block, and how it is compiled.

    Attributes:
        blocks: of a decode: about as many as the GPU holds at once; 0: keys are not split.
        min_keys: of a block whose keys are split.
    """

    tokens: int
    heads: int
    keys: int
    num_warps: int
    num_stages: int
    blocks: int = 0
    min_keys: int = 64

    @property
    def rows(self) -> int:
        """Of the matrix products."""
        return self.tokens * self.heads


def ragged_tile(problem: LatentProblem, target: CudaTarget) -> LatentTile:
    """64 rows where the matrix units take as many at once and shared memory holds two blocks of keys beside them.

    Measured on an H100, 16 heads, 4096 tokens: 0.95 ms; with 32 keys 1.38, of 32 rows by four warps 1.18.
    """
    rows, tile = (64, (64, 8, 2)) if target.has_wgmma else (32, (32, 4, 2))
    if problem.format.powers:  # numbers are widened in registers
        rows, tile = 32, (32, 8, 2)
    heads = min(rows, next_power_of_2(problem.num_heads))
    return LatentTile(rows // heads, heads, *tile)


def decode_tile(problem: LatentProblem, target: CudaTarget) -> LatentTile:
    """One token and 16 heads, one block on a multiprocessor, which has two blocks of keys in flight.

    More heads in a block are slower even where there are 128 of them (H100, 32 tokens of 1024 rows: 79 us for 16, 126
    for 64); of 16 heads 32 tokens take 28 us, and 31 with twice the blocks.
    """
    if target.shared_bytes >= 200 << 10:
        return LatentTile(1, 16, 64, 8 if problem.format.powers else 4, 3, blocks=132)
    return LatentTile(1, 16, 32, 4, 2, blocks=132)


@dataclass(frozen=True, slots=True)
class LatentAttentionSpec:
    """out [T, num_heads, latent]; with split keys, for T up to S, parts of it where a token's keys are many.

    Attributes:
        expansion: its keys are left out; the log-sum-exp of the others, of base 2, goes to lse [T, num_heads].
    """

    problem: LatentProblem
    tile: LatentTile
    pdl: bool
    expansion: Expansion | None = None

    @property
    def name(self) -> str:
        t = self.tile
        kind = f"decode_m{t.min_keys}_b{t.blocks}" if t.blocks else "ragged"
        but = f"_but_{self.expansion.room}" if self.expansion else ""
        return f"{kind}_{self.problem.name}{but}_{t.tokens}x{t.heads}x{t.keys}_w{t.num_warps}_s{t.num_stages}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        p = self.problem
        lse = [Pointer("lse", DType.F32)] if self.expansion else []
        return (*p.queries, Pointer("kv", p.kv), *p.batch, *self.scratch, *lse, Pointer("out", DType.BF16))

    @property
    def scratch(self) -> tuple[Pointer, ...]:
        """The operands that `temps` are."""
        return (Pointer("parts", DType.F32), Pointer("statistics", DType.F32)) if self.tile.blocks else ()

    @property
    def temps(self) -> tuple[Temp, ...]:
        """parts: sums of weighted values; statistics: largest score and sum of weights."""
        slots = f"S+{self.fill}"  # S * splits is at most the larger of the two
        shapes = ((slots, self.problem.num_heads, self.problem.latent), (slots, self.problem.num_heads, 2))
        return tuple(Temp(tensor(shape, DType.F32)) for shape in shapes)

    @property
    def dims(self) -> tuple[str, ...]:
        return "T", "S", "P"

    @property
    def head_blocks(self) -> int:
        """Blocks of heads."""
        return -(-self.problem.num_heads // self.tile.heads)

    @property
    def fill(self) -> int:
        """Tokens times splits that fill the GPU."""
        return max(1, self.tile.blocks // self.head_blocks)

    @property
    def splits(self) -> str:
        """Blocks that share the keys of a token."""
        return f"max(1, min({MAX_SPLITS}, {self.fill} // S, (P + {self.min_pages - 1}) // {self.min_pages}))"

    @property
    def min_pages(self) -> int:
        """Pages of a split at least."""
        return max(1, self.tile.min_keys // PAGE_SIZE)

    @property
    def grid(self) -> tuple[int, str, str | int]:
        if self.tile.blocks:
            return self.head_blocks, "T", self.splits
        return self.head_blocks, f"T // {self.tile.tokens} + S + 1", 1

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return "0" if self.expansion else self.problem.flops  # dims do not tell what is not expanded

    @property
    def bytes(self) -> str:
        return "0" if self.expansion else self.problem.bytes

    def source(self) -> str:
        p = self.problem
        return render(
            "latent_attention.py.j2",
            spec=self,
            p=p,
            f=p.format,
            block_r=padded(p.rotated),
            page_size=PAGE_SIZE,
            scale=p.scale * LOG2_E,
            fewest=FEWEST,
            aligned=ALIGNED,
        )

    def __str__(self) -> str:
        p, how = self.problem, "keys split" if self.tile.blocks else "ragged"
        how += ", but of expanded keys" if self.expansion else ""
        return f"attention of {p.num_heads} heads over paged latent rows of {p.latent} + {p.rotated}, {how}"
