"""LayerNorm: one tile per row."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.refusals import refuse_activations
from warploom.codegen.cpu.kernels.row_folds import Load, sum_row
from warploom.codegen.cpu.math import rsqrt
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr, lanes_of_row
from warploom.codegen.cpu.values import LANES, Value, broadcast, select
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.norm import layer_norm
from warploom.ir.types import type_of

KIND = "layer_norm"


@dataclass(frozen=True, slots=True)
class LayerNormSpec:
    """x [T, columns] f32, centered, / sqrt(var + eps) * weight + bias; row t has row t % heads of the parameters.

    `bias` is its dtype, "" where there is none.
    """

    columns: int
    heads: int
    weight: str
    bias: str
    eps: float

    dims = ("T",)
    tiles = "T"
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        parameters = f"{self.weight}_{self.bias}" if self.bias else self.weight
        rows = f"{self.heads}x{self.columns}" if self.heads > 1 else f"{self.columns}"
        return identifier(f"layer_norm_{parameters}_{rows}_eps_{self.eps!r}")

    @property
    def flops(self) -> str:
        """Sum, difference, square, sum, two products and a sum."""
        return f"T * {7 * self.columns}"

    @property
    def bytes(self) -> str:
        """x and y; the parameters once."""
        each = ELEMENT_BYTES[self.weight] + (ELEMENT_BYTES[self.bias] if self.bias else 0)
        return f"T * {8 * self.columns} + {each * self.heads * self.columns}"

    def emit(self, library: Library) -> None:
        """Operands: x, weight, bias (if any), y."""
        operands = {"x": "f32", "weight": self.weight, **({"bias": self.bias} if self.bias else {}), "y": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as row:
            head = row % self.heads * self.columns
            bias = k.operands["bias"].at(head) if self.bias else None
            x, y = (k.operands[name].at(row * self.columns) for name in ("x", "y"))
            self._normalize(x, k.operands["weight"].at(head), bias, y)

    def _normalize(self, x: Ptr, weight: Ptr, bias: Ptr | None, y: Ptr) -> None:
        mean = broadcast(sum_row(self._load(x), self.columns) * (1.0 / self.columns))
        centered = self._centered(x, mean)
        variance = sum_row(lambda i: centered(i) * centered(i), self.columns) * (1.0 / self.columns)
        scale = broadcast(rsqrt(variance + self.eps))
        with loop(0, self.columns, LANES) as i:
            mask = lanes_of_row(i, self.columns)
            scaled = centered(i) * scale * weight.load(i, mask=mask)
            y.store(i, scaled if bias is None else scaled + bias.load(i, mask=mask), mask=mask)

    def _load(self, x: Ptr) -> Load:
        """Lanes beyond the row are 0."""
        return lambda i: x.load(i, mask=lanes_of_row(i, self.columns))

    def _centered(self, x: Ptr, mean: Value) -> Load:
        def load(i: Value) -> Value:
            mask, difference = lanes_of_row(i, self.columns), x.load(i, mask=lanes_of_row(i, self.columns)) - mean
            return difference if mask is None else select(mask, difference, 0.0)

        return load


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `layer_norm`, or why there is none."""
    operation = only_op(group, layer_norm)
    if isinstance(operation, str):
        return operation
    x, weight, *bias = operation.operands
    *rows, columns = type_of(x).shape
    refusal = refuse_activations(x)
    if refusal is not None or not isinstance(columns, int):
        return refusal or f"the last axis must be static; here {type_of(x)}"
    if type_of(weight).rank > 2 or any(type_of(b).shape != type_of(weight).shape for b in bias):
        return f"weight and bias must be rows, or one row per head; here {type_of(weight)}"
    heads = static(type_of(weight).shape[0]) if type_of(weight).rank == 2 else 1
    dtypes = (type_of(weight).dtype.value, type_of(bias[0]).dtype.value if bias else "")
    spec = LayerNormSpec(columns, heads, *dtypes, layer_norm.attrs_of(operation)["eps"])
    operands = (
        *(input_slot(group, value) for value in (x, weight, *bias)),
        result_slot(group, operation.results[0]),
    )
    return Match(spec, operands, {"T": str(product(rows))})
