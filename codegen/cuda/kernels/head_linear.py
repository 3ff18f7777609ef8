"""A product for each head: blocks of tokens times blocks of a head's columns.

For few tokens a block loads its whole part of the weight at once, before it waits for the tokens: there is no loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.columns import Range, columns_of
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Step, Variant
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of

KIND = "head_linear"
FEW = 64  # tokens
AT_ONCE = 8192  # numbers of a weight


@dataclass(frozen=True, slots=True)
class HeadTile:
    """Tokens, columns and depth of a block, and how it is compiled."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


def few_tile(n: int, k: int) -> HeadTile:
    """16 tokens, and all of the depth if that leaves 16 columns."""
    depth = min(512, padded(k))
    return HeadTile(16, min(max(16, AT_ONCE // depth), 64, padded(n)), depth, 4, 2)


def many_tile(n: int, k: int) -> HeadTile:
    """128 tokens and a pipelined loop."""
    return HeadTile(128, min(128, padded(n)), min(64, padded(k)), 8, 3)


@dataclass(frozen=True, slots=True)
class HeadLinearSpec:
    """out [T, heads, n] of heads of k columns of x [T, x.stride], all bf16, with weights [heads * n, k].

    Attributes:
        expansion: blocks of tokens all of whose keys it has are left out.
    """

    heads: int
    n: int
    k: int
    weight: DType
    x: Range
    tile: HeadTile
    pdl: bool
    expansion: Expansion | None = None

    @property
    def name(self) -> str:
        t = self.tile
        but = f"_but_{self.expansion.room}" if self.expansion else ""
        tile = f"{t.rows}x{t.columns}x{t.depth}_w{t.num_warps}_s{t.num_stages}"
        return f"head_linear_{self.weight}_{self.heads}x{self.n}x{self.k}_x{self.x}{but}_{tile}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        batch = ("query_start", "context_lens") if self.expansion else ()
        read = Pointer("x", DType.BF16), Pointer("weight", self.weight), *(Pointer(name, DType.I32) for name in batch)
        return (*read, Pointer("out", DType.BF16))

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T", "S") if self.expansion else ("T",)

    @property
    def grid(self) -> tuple[int, int, str]:
        return -(-self.n // self.tile.columns), self.heads, f"(T + {self.tile.rows - 1}) // {self.tile.rows}"

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return "0" if self.expansion else f"{2 * self.heads * self.n * self.k} * T"

    @property
    def bytes(self) -> str:
        if self.expansion:  # dims do not tell what is not expanded
            return "0"
        return f"{self.heads * self.n * self.k * self.weight.numpy.itemsize} + {2 * self.heads * (self.n + self.k)} * T"

    def source(self) -> str:
        return render("head_linear.py.j2", spec=self, t=self.tile, fewest=FEWEST, aligned=ALIGNED)

    def __str__(self) -> str:
        return f"{self.heads} heads, each times a matrix {self.n} x {self.k} of its own"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is one `head_linear` of columns of a matrix, or why there are none."""
    operation = next((op for op in group.ops if is_op(op, head_linear)), None)
    if operation is None or len(group.results) != 1:
        return "takes one head_linear"
    x, weight, *_ = operation.operands
    source, dtypes = columns_of(x), (type_of(x).dtype, type_of(weight).dtype)
    if isinstance(source, str) or dtypes[0] is not DType.BF16 or dtypes[1] not in (DType.BF16, DType.F32):
        return f"x must be bf16 columns of a matrix, weights bf16 or f32; here {type_of(x)}, {type_of(weight)}"
    tokens, heads, k = type_of(x).shape
    sizes = static(heads), head_linear.attrs_of(operation)["n"], static(k)
    slots = (input_slot(group, source.matrix), input_slot(group, weight), result_slot(group, operation.results[0]))

    def launch(tile: HeadTile) -> tuple[Step]:
        return (Step(HeadLinearSpec(*sizes, dtypes[1], source.range, tile, target.has_tma), slots, {"T": str(tokens)}),)

    many = launch(many_tile(*sizes[1:]))
    if target.deterministic:
        return Match((Variant(many),))
    few = launch(few_tile(*sizes[1:]))
    return Match(tuple(map(Variant, (few, many), consecutive(str(tokens), (FEW, None)))))
