"""Products with the chosen experts, whose matrices lie as checkpoints store them.

A tile is a block of rows of an expert and one choice of a token. Choices come first, so that the blocks that one thread
reads stay in its cache while all tokens pass by; each result is one fixed tree of sums, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.refusals import refuse_activations
from warploom.codegen.cpu.kernels.row_folds import sums_of_columns
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import (
    Value,
    convert_int,
    fma,
    maximum,
    minimum,
    reduce_add,
)
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.experts import expert_linear
from warploom.ir.types import DType, type_of

KIND = "expert_linear"
BLOCK = 16  # rows of an expert in a tile
WEIGHTS = (DType.F32, DType.BF16)


@dataclass(frozen=True, slots=True)
class ExpertLinearSpec:
    """y [T, choices, n] f32 of x [T, choices or 1, k] f32.

    Attributes:
        experts: how many there are.
        n: rows of each.
        choices: experts of a token.
        shared: all choices of a token read one row of x.
        weight: dtype of [experts * n, k] in memory.
    """

    experts: int
    n: int
    k: int
    choices: int
    shared: bool
    weight: str

    dims = ("T",)
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        sizes = f"{self.choices}of{self.experts}_{self.n}x{self.k}"
        return f"expert_linear_{self.weight}_{sizes}{'_shared' if self.shared else ''}"

    @property
    def blocks(self) -> int:
        """Blocks of rows of an expert."""
        return -(-self.n // BLOCK)

    @property
    def tiles(self) -> str:
        """One per block and choice."""
        return f"T * {self.choices * self.blocks}"

    @property
    def flops(self) -> str:
        """A product and a sum for each weight that is met."""
        return f"T * {2 * self.choices * self.n * self.k}"

    @property
    def bytes(self) -> str:
        """Experts that are met, at most all; x and y."""
        rows = 4 * (self.k * (1 if self.shared else self.choices) + self.n * self.choices)
        return f"min(T * {self.choices}, {self.experts}) * {self.n * self.row_bytes} + T * {rows}"

    @property
    def row_bytes(self) -> int:
        """Of a row of the weight."""
        return self.k * ELEMENT_BYTES[self.weight]

    @property
    def weight_operands(self) -> dict[str, str]:
        """Names and elements of what the weight is in memory."""
        return {"weight": self.weight}

    def emit(self, library: Library) -> None:
        """Operands: x, experts, the weight, y."""
        operands = {"x": "f32", "experts": "i32", **self.weight_operands, "y": "f32"}
        with library.kernel(self.name, operands, self.dims) as kernel, kernel.tiles() as tile:
            self._tile(library, kernel, tile)

    def _tile(self, library: Library, kernel: Kernel, tile: Value) -> None:
        x, experts, *weight, y = kernel.operands.values()
        choices = kernel.dims["T"] * self.choices
        choice, first = tile % choices, (tile // choices) * BLOCK
        expert = convert_int(minimum(maximum(experts[choice], 0), self.experts - 1), "i64")
        row = x.at((choice // self.choices if self.shared else choice) * self.k)
        out = y.at(choice * self.n)
        end = minimum(first + BLOCK, self.n)
        at_once = 8 if kernel.isa.accumulators > 8 else 4
        whole = first + (end - first) // at_once * at_once
        for lower, upper, count in ((first, whole, at_once), (whole, end, 1)):
            with loop(lower, upper, count) as n:
                for i, total in enumerate(self.dots(library, row, weight, expert * self.n + n, count)):
                    out[n + i] = total

    def dots(self, library: Library, x: Ptr, weight: Sequence[Ptr], first: Value, count: int) -> list[Value]:
        """x [k] times `count` rows of the weight from the `first` on."""
        rows = weight[0].at(first * self.k)

        def step(i: Value, *totals: Value, mask: Value | None) -> list[Value]:
            vector = x.load(i, mask=mask)
            return [fma(rows.load(i + row * self.k, mask=mask), vector, total) for row, total in enumerate(totals)]

        return [reduce_add(total) for total in sums_of_columns(self.k, count, step)]


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `expert_linear`, or why there is none."""
    operation = only_op(group, expert_linear)
    if isinstance(operation, str):
        return operation
    dtype = type_of(operation.operands[2]).dtype
    if dtype not in WEIGHTS:
        return f"takes weights of {', '.join(WEIGHTS)}; here {dtype}"
    return matched(group, operation, ExpertLinearSpec, dtype.value)


def matched(
    group: Function, operation: mlir.Operation, kind: Callable[..., ExpertLinearSpec], weight: str, *more: int | str
) -> Match | str:
    """The kernel of a product with experts, whose weight is of a format, or why its activations are refused."""
    x, experts, matrix, *_ = operation.operands
    if (refusal := refuse_activations(x)) is not None:
        return refusal
    n, rows, choices = expert_linear.attrs_of(operation)["n"], type_of(matrix).shape[0], type_of(experts).shape[1]
    _, sharing, k = type_of(x).shape
    spec = kind(static(rows) // n, n, static(k), static(choices), sharing == 1, weight, *more)
    operands = (*(input_slot(group, value) for value in operation.operands), result_slot(group, operation.results[0]))
    return Match(spec, operands, {"T": str(type_of(experts).shape[0])})
