"""A product for each head, whose matrices lie as checkpoints store them, in floats or in int8 with a scale a row.

A tile is a block of rows of one head's matrix, for all tokens; an element is one fixed tree of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from warploom.codegen.columns import Range, columns_of
from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.refusals import refuse_activations
from warploom.codegen.cpu.kernels.register_product import largest_divisor
from warploom.codegen.cpu.kernels.row_folds import sums_of_columns
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import Value, fma, reduce_add, to_f32
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of

KIND = "head_linear"
ROWS = 16  # of a tile, if they divide n
TOKENS = 4  # at once
WEIGHTS = (DType.F32, DType.BF16, DType.I8)


@dataclass(frozen=True, slots=True)
class HeadLinearSpec:
    """y [T, heads, n] f32 of heads of k columns of x [T, x.stride] f32, with weights [heads * n, k]."""

    heads: int
    n: int
    k: int
    weight: str
    x: Range

    dims = ("T",)
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"head_linear_{self.weight}_{self.heads}x{self.n}x{self.k}_x{self.x}"

    @property
    def is_scaled(self) -> bool:
        """Whether rows have scales."""
        return self.weight == DType.I8

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return largest_divisor(self.n, ROWS)

    @property
    def tiles(self) -> str:
        """One per block of rows of a head."""
        return str(self.heads * self.n // self.rows)

    @property
    def flops(self) -> str:
        """A product and a sum for each weight and token."""
        return f"T * {2 * self.heads * self.n * self.k}"

    @property
    def bytes(self) -> str:
        """The weight, x and y."""
        row = self.k * ELEMENT_BYTES[self.weight] + 4 * self.is_scaled
        return f"{self.heads * self.n * row} + T * {4 * self.heads * (self.n + self.k)}"

    def emit(self, library: Library) -> None:
        """Operands: x, weight, scale if there are any, y."""
        operands = {"x": "f32", "weight": self.weight} | ({"scale": "f32"} if self.is_scaled else {}) | {"y": "f32"}
        with library.kernel(self.name, operands, self.dims) as kernel, kernel.tiles() as tile:
            whole = kernel.dims["T"] // TOKENS * TOKENS
            for lower, upper, count in ((0, whole, TOKENS), (whole, kernel.dims["T"], 1)):
                with loop(lower, upper, count) as token:
                    self._tokens(kernel, tile * self.rows, token, count)

    def _tokens(self, kernel: Kernel, first: Value, token: Value, count: int) -> None:
        """Rows from `first` on, of all heads' rows, times tokens that follow one another."""
        head = first // self.n
        x = kernel.operands["x"].at(token * self.x.stride + head * self.k + self.x.start)
        weight, out = kernel.operands["weight"].at(first * self.k), kernel.operands["y"]
        at_once = largest_divisor(self.rows, max(1, kernel.isa.accumulators // count))
        with loop(0, self.rows, at_once) as row:
            totals = self._dots(x, weight.at(row * self.k), count, at_once)
            for total, (t, r) in zip(totals, product(range(count), range(at_once)), strict=True):
                sum_ = reduce_add(total)
                value = sum_ * kernel.operands["scale"][first + row + r] if self.is_scaled else sum_
                out[(token + t) * (self.heads * self.n) + first + row + r] = value

    def _dots(self, x: Ptr, weight: Ptr, tokens: int, rows: int) -> list[Value]:
        def step(i: Value, *totals: Value, mask: Value | None) -> list[Value]:
            left = [x.load(i + t * self.x.stride, mask=mask) for t in range(tokens)]
            right = [to_f32(weight.load(i + r * self.k, mask=mask)) for r in range(rows)]
            return [fma(a, b, total) for (a, b), total in zip(product(left, right), totals, strict=True)]

        return sums_of_columns(self.k, tokens * rows, step)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `head_linear`, of columns of a matrix; or why there is none."""
    operation = next((op for op in group.ops if is_op(op, head_linear)), None)
    if operation is None or len(group.results) != 1:
        return "takes one head_linear"
    x, weight, *sides = operation.operands
    refusal, source = refuse_activations(x), columns_of(x)
    if refusal is not None or isinstance(source, str):
        return refusal or str(source)
    if type_of(weight).dtype not in WEIGHTS:
        return f"takes weights of {', '.join(WEIGHTS)}; here {type_of(weight)}"
    tokens, heads, k = type_of(x).shape
    n = head_linear.attrs_of(operation)["n"]
    spec = HeadLinearSpec(static(heads), n, static(k), type_of(weight).dtype.value, source.range)
    read = [input_slot(group, value) for value in (source.matrix, weight, *sides)]
    return Match(spec, (*read, result_slot(group, operation.results[0])), {"T": str(tokens)})
