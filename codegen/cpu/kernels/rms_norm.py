"""RMSNorm that no linear absorbs: one tile per row."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.refusals import refuse_activations
from warploom.codegen.cpu.kernels.row_norm import normalize_row
from warploom.codegen.cpu.memory import ELEMENT_BYTES
from warploom.codegen.groups import input_slot, only_op, result_slot
from warploom.codegen.names import identifier
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.norm import rms_norm
from warploom.ir.types import type_of

KIND = "rms_norm"


@dataclass(frozen=True, slots=True)
class RmsNormSpec:
    """x [T, columns] f32 / sqrt(mean(x^2) + eps) * weight [columns]."""

    columns: int
    weight: str
    eps: float

    dims = ("T",)
    tiles = "T"
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return identifier(f"rms_norm_{self.weight}_{self.columns}_eps_{self.eps!r}")

    @property
    def flops(self) -> str:
        """Square, sum, two products."""
        return f"T * {4 * self.columns}"

    @property
    def bytes(self) -> str:
        """x and y; the weight once."""
        return f"T * {8 * self.columns} + {ELEMENT_BYTES[self.weight] * self.columns}"

    def emit(self, library: Library) -> None:
        """Operands: x, weight, y."""
        with library.kernel(self.name, {"x": "f32", "weight": self.weight, "y": "f32"}, self.dims) as k:
            x, weight, y = k.operands.values()
            with k.tiles() as row:
                normalize_row(x.at(row * self.columns), weight, y.at(row * self.columns), self.columns, self.eps)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `rms_norm`, or why there is none."""
    operation = only_op(group, rms_norm)
    if isinstance(operation, str):
        return operation
    x, weight = operation.operands
    *rows, columns = type_of(x).shape
    refusal = refuse_activations(x)
    if refusal is not None or not isinstance(columns, int):
        return refusal or f"the last axis must be static; here {type_of(x)}"
    spec = RmsNormSpec(columns, type_of(weight).dtype.value, rms_norm.attrs_of(operation)["eps"])
    operands = (input_slot(group, x), input_slot(group, weight), result_slot(group, operation.results[0]))
    return Match(spec, operands, {"T": str(product(rows))})
