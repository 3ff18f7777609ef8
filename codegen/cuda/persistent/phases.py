"""The kernels that can be a phase of a persistent kernel, and how its blocks share each."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import CudaKernelSpec
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Weight
from warploom.ir.types import DType

WARPS = 8
PIECE = 256  # columns that the lanes of a warp hold, 8 each
WEIGHT_REGISTERS = 64  # of a thread, for what is loaded before it waits: more would spill
KEYS_OF_WARP = 32
MOST_SPLITS = 16  # blocks that share a head; one of them adds up what they leave
HEAD_DIM = 64  # more spill


@dataclass(frozen=True, slots=True)
class Roles:
    """The operands of a kernel by name.

    Attributes:
        whole: values of other phases, of which every block reads all.
        partial: those of which it reads a part.
        out: what it makes.
        tables: what is another place in every repetition, and nothing in the chain writes, but for the cache.
        constants: what is the same in all repetitions.
    """

    whole: tuple[str, ...]
    partial: tuple[str, ...]
    out: str
    tables: tuple[str, ...]
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gemv:
    """A linear layer of one token: every block has `rows` outputs."""

    problem: LinearProblem
    rows: int

    @property
    def roles(self) -> Roles:
        """See `Roles`."""
        residual = ("residual",) if self.problem.epilogue == "residual" else ()
        return Roles(("x",), residual, "out", ("w",) if self.problem.norm is None else ("gain", "w"))

    @property
    def made(self) -> tuple[int, DType]:
        """Length and dtype of what it makes."""
        return self.problem.width, self.problem.out

    @property
    def tiles(self) -> int:
        """Blocks that have a part in it."""
        return self.problem.width // self.rows


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one token: a head is one block's, or for long contexts several blocks'."""

    problem: AttentionProblem
    splits: int

    @property
    def roles(self) -> Roles:
        """See `Roles`."""
        constants = ("cos", "sin", "slots", "page_table", "context_lens")
        return Roles((), ("q", "k", "v"), "out", ("kv",), constants)

    @property
    def made(self) -> tuple[int, DType]:
        """Length and dtype of what it makes."""
        return self.problem.num_heads * self.problem.head_dim, DType.BF16

    @property
    def tiles(self) -> int:
        """Blocks that have a part in it."""
        return self.problem.num_heads * self.splits

    @property
    def part_words(self) -> int:
        """What blocks that share heads leave: sums, and their largest score and weight."""
        return self.tiles * (self.problem.head_dim + 2)


Phase = Gemv | Attention


def phase_of(spec: CudaKernelSpec, blocks: int) -> Phase | str:
    """The phase that computes what a kernel does for one token, among so many blocks, or why there is none."""
    if isinstance(spec, GemvSpec):
        return _gemv(spec.problem, blocks)
    if isinstance(spec, DecodeAttentionSpec):
        return _attention(spec.problem, blocks)
    return "only GEMVs and attention of decodes are phases"


def _gemv(problem: LinearProblem, blocks: int) -> Gemv | str:
    if problem.weight != Weight() or problem.bias is not None:
        return "weights must be bf16, without bias"
    if (problem.epilogue == "residual" and problem.out is not DType.F32) or problem.k % 8:
        return "the residual stream must be f32, and columns a multiple of 8"
    rows = WARPS
    while -(-problem.width // rows) > blocks:
        rows *= 2
    if problem.width % rows:
        return f"blocks of {rows} outputs must share {problem.width} evenly"
    parts = 2 if problem.epilogue == "swiglu" else 1
    registers = rows * parts * -(-problem.k // PIECE) * PIECE // (2 * 32 * WARPS)
    if registers > WEIGHT_REGISTERS:
        return f"a block's share of the weights takes {registers} registers of a thread; {WEIGHT_REGISTERS} may be used"
    return Gemv(problem, rows)


def _attention(problem: AttentionProblem, blocks: int) -> Attention | str:
    p, projection = problem, problem.projection
    plain = AttentionProblem(p.num_heads, p.num_kv_heads, p.head_dim, p.scale, projection=projection)
    if projection is None or projection.q is None or p != plain:
        return "attention must be plain, over a cache in bf16, and rotate q and k itself"
    ranges = projection.q, projection.k, projection.v
    if p.head_dim != HEAD_DIM or 2 * projection.half != p.head_dim or any(r.start % 2 for r in ranges):
        return f"heads must have {HEAD_DIM} dims, all rotated"
    heads = p.num_heads, p.num_kv_heads, p.num_kv_heads
    covered = sorted((r.start, r.start + n * p.head_dim) for r, n in zip(ranges, heads, strict=True))
    ends = [0, *(end for _, end in covered)]
    if [begin for begin, _ in covered] != ends[:-1] or {r.stride for r in ranges} != {ends[-1]}:
        return "q, k and v must be all that their projection makes"
    if p.num_heads > blocks:
        return f"it has {p.num_heads} heads for {blocks} blocks"
    return Attention(problem, min(MOST_SPLITS, blocks // p.num_heads))
