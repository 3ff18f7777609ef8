"""Which groups are latent attention, and the kernels that compute it: ragged prompts; decodes whose keys are split.

A block takes a few tokens of one sequence times a block of heads (rows of the products, padded to 16 at least) and runs
over rows of the cache, each of which it loads once: as a key for the scores, as a value for the sums. Blocks of ragged
tokens are numbered as in `ragged_attention.py`, keys are split as in `decode_attention.py`, but that the parts are put
together by a kernel of their own: one row of 512 numbers per head and part is too much for the last block alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, padded
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Temp, Variant
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.kernels.latent_format import LatentFormat
from warploom.codegen.cuda.names import identifier
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot, kv_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.types import DType, tensor, type_of

KIND = "latent_attention"
MAX_SPLITS = 32
PARTS = 8  # of a head that are put together at once
WIDEST = 1024  # latent: sums of 16 rows are in registers
ROWS = (DType.BF16, DType.F8, DType.I8)


@dataclass(frozen=True, slots=True)
class LatentProblem:
    """Causal attention of bf16 queries [T, num_heads, latent + rotated] over rows of one layer, which are of `kv`."""

    num_heads: int
    latent: int
    rotated: int
    scale: float
    kv: DType = DType.BF16

    @property
    def name(self) -> str:
        """Readable and unique."""
        shape = f"{self.num_heads}x{self.latent}r{self.rotated}{self.format.suffix}"
        name = f"latent_attention_{shape}_scale_{self.scale.hex()}"
        return identifier(name)

    @property
    def format(self) -> LatentFormat:
        """Of rows in the cache."""
        return LatentFormat(self.latent, self.rotated, self.kv)

    @property
    def row(self) -> int:
        """Numbers of a token and of a query."""
        return self.latent + self.rotated

    @property
    def queries(self) -> tuple[Pointer, ...]:
        """Both parts."""
        return Pointer("q_latent", DType.BF16), Pointer("q_rope", DType.BF16)

    @property
    def batch(self) -> tuple[Pointer, ...]:
        """Where sequences and their tokens are."""
        return tuple(Pointer(name, DType.I32) for name in ("page_table", "query_start", "context_lens"))

    @property
    def flops(self) -> str:
        """Upper bound: each token attends its full page table."""
        return f"{2 * PAGE_SIZE * self.num_heads * (self.row + self.latent)} * T * P"

    @property
    def bytes(self) -> str:
        """Upper bound: full page tables once, queries and the result once."""
        return f"{PAGE_SIZE * self.format.bytes_of_row} * S * P + {2 * self.num_heads * (self.row + self.latent)} * T"


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


@dataclass(frozen=True, slots=True)
class CombineSpec:
    """Puts the parts of tokens whose keys were split together."""

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


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is one `latent_attention`, or why there are none."""
    operation = only_op(group, latent_attention)
    if isinstance(operation, str):
        return operation
    problem = problem_of(operation)
    if isinstance(problem, str):
        return problem
    q_latent, q_rope, kv, *batch = operation.operands
    names = ("page_table", "query_start", "context_lens")
    values = {"q_latent": q_latent, "q_rope": q_rope, **dict(zip(names, batch, strict=True))}
    slots = {name: input_slot(group, value) for name, value in values.items()}
    slots |= {
        "kv": kv_slot(group, kv, latent_attention.attrs_of(operation)["layer"]),
        "out": result_slot(group, operation.results[0]),
    }
    sequences, width = type_of(batch[0]).shape
    scope = Scope(slots, {"T": str(type_of(q_latent).shape[0]), "S": str(sequences), "P": str(width)})
    return _lower(problem, scope, target)


def problem_of(operation: mlir.Operation) -> LatentProblem | str:
    """The problem of a `latent_attention`, or why kernels do not compute it."""
    q_latent, q_rope, kv, *_ = operation.operands
    attrs = latent_attention.attrs_of(operation)
    _, heads, latent = type_of(q_latent).shape
    if {type_of(value).dtype for value in (q_latent, q_rope)} != {DType.BF16} or attrs["page_size"] != PAGE_SIZE:
        return f"queries must be bf16, pages {PAGE_SIZE} rows; here {type_of(q_latent)}, {attrs['page_size']}"
    rotated, rows = static(type_of(q_rope).shape[2]), type_of(kv).dtype
    if rows not in ROWS:
        return f"rows must be {', '.join(ROWS)}; here {rows}"
    problem = LatentProblem(static(heads), static(latent), rotated, attrs["scale"], rows)
    if problem.scale <= 0 or problem.latent % 8 or problem.rotated % 8 or problem.latent > WIDEST:
        return f"latents of {problem.latent} + {problem.rotated} numbers with scale {problem.scale} have no kernel"
    return problem


def _lower(problem: LatentProblem, scope: Scope, target: CudaTarget) -> Match:
    """T = S means that every sequence decodes, else there are chunks of prompts; only the latter is deterministic."""
    ragged = (scope.step(LatentAttentionSpec(problem, ragged_tile(problem, target), target.has_tma)),)
    if target.deterministic:
        return Match((Variant(ragged),))
    spec = LatentAttentionSpec(problem, decode_tile(problem, target), target.has_tma)
    scope = scope.with_temps(operand.name for operand in spec.scratch)
    decode = (scope.step(spec), scope.step(CombineSpec(spec)))
    ranges = consecutive(f"{scope.dims['T']} - {scope.dims['S']}", (0, None))
    return Match(tuple(map(Variant, (decode, ragged), ranges)), spec.temps)
