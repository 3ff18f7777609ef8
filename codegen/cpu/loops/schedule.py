"""Which tile computes what: blocks of rows, and blocks of columns where rows are long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.loops.coords import Coord, Extents, at, lanes_from, zero
from warploom.codegen.cpu.values import LANES, Value, index, minimum
from warploom.codegen.loop_program import ROWS, Program
from warploom.ir.dims import DimLike, Shape, product

TILE_WORK = 16384  # scalar operations that make a tile worth its claim
_UNKNOWN_SIZE = 64  # what a symbolic dimension counts in estimates of work
_SLOW = frozenset({"exp", "log", "tanh", "erf", "logistic", "sin", "cos", "pow", "random_bits"})


@dataclass(frozen=True, slots=True)
class Span:
    """The rows and columns of a tile, i64; the ends are exclusive."""

    first_row: Value
    last_row: Value
    first_column: Value
    last_column: Value


@dataclass(frozen=True, slots=True)
class Schedule:
    """A tensor as rows of columns, cut into tiles of `row_block` rows and `column_block` columns (0: all)."""

    outer: Shape
    columns: DimLike
    row_block: int
    column_block: int

    @property
    def tiles(self) -> str:
        """Number of tiles as an expression of the plan."""
        row_tiles = f"({product(self.outer)}+{self.row_block - 1})//{self.row_block}"
        if not self.column_block:
            return row_tiles
        return f"({row_tiles})*(({self.columns}+{self.column_block - 1})//{self.column_block})"

    @contextmanager
    def spans(self, k: Kernel, extents: Extents) -> Iterator[Span]:
        """A loop over the tiles of this call."""
        rows, columns = extents.value(product(self.outer)), index(extents.value(self.columns))
        with k.tiles() as tile:
            row_tile, column, end = tile, index(0), columns
            if self.column_block:
                per_row = (columns + (self.column_block - 1)) // self.column_block
                row_tile, column = tile // per_row, tile % per_row * self.column_block
                end = minimum(column + self.column_block, columns)
            row = row_tile * self.row_block
            yield Span(row, minimum(row + self.row_block, rows), column, end)

    def coords(self, row: Value, column: Coord, rank: int, extents: Extents) -> tuple[Coord, ...]:
        """Coordinates in the tensor, which may have unit dimensions behind the columns."""
        coords = [*extents.delinear(at(row), self.outer), column]
        return tuple(coords + [zero()] * (rank - len(coords)))[:rank]


def for_columns(first: Value, last: Value, size: DimLike, lanes: bool, body: Callable[[Coord], None]) -> None:
    """Run `body` for the columns [first, last) of a row of `size`: whole vectors if `lanes`, then what is left."""
    if lanes:
        whole = first + (last - first) // LANES * LANES
        with loop(first, whole, LANES) as column:
            body(lanes_from(column))
        if isinstance(size, int) and size % LANES == 0:
            return
        first = whole
    with loop(first, last) as column:
        body(at(column))


def schedule_of(program: Program, lanes: bool) -> Schedule:
    """How the root of a program is cut into tiles; with `lanes`, at multiples of LANES columns."""
    outer, columns = rows_and_columns(program)
    work = _work(program)
    if program.root.op in ROWS:
        return Schedule(outer, columns, max(1, TILE_WORK // (work * _estimate(columns))), 0)
    block = max(1, TILE_WORK // work)
    if lanes:
        block = max(LANES, block // LANES * LANES)
    if isinstance(columns, int) and columns <= block:
        return Schedule(outer, columns, max(1, block // max(1, columns)), 0)
    return Schedule(outer, columns, 1, block)


def rows_and_columns(program: Program) -> tuple[Shape, DimLike]:
    """What the loops around the root run over; unit dimensions behind the columns are left out."""
    root = program.root
    if root.op in ROWS:
        *outer, size = program.nodes[root.operands[0]].type.shape
        return tuple(outer), size
    if root.op == "scatter":
        return root.type.shape[:1], product(root.type.shape[1:])
    shape = root.type.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return (shape[:-1], shape[-1]) if shape else ((), 1)


def _work(program: Program) -> int:
    """Scalar operations per element of the root, roughly."""
    work = sum(8 if node.op in _SLOW else 1 for node in program.ops)
    return work * _estimate(product(program.folded))


def _estimate(size: DimLike) -> int:
    return max(1, size) if isinstance(size, int) else _UNKNOWN_SIZE
