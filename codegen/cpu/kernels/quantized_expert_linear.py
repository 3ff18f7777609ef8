"""Products with the chosen experts, whose weights are int8, fp8 or of four bits: they are floats in registers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.expert_linear import KIND, ExpertLinearSpec, matched
from warploom.codegen.cpu.kernels.row_folds import sums_of_columns
from warploom.codegen.cpu.memory import ELEMENT_BYTES, Ptr
from warploom.codegen.cpu.values import LANES, Value, broadcast, convert_int, fma, reduce_add, to_f32
from warploom.codegen.groups import only_op, static
from warploom.ir.function import Function
from warploom.ir.layouts import split_block
from warploom.ir.ops.experts import quantized_expert_linear
from warploom.ir.types import type_of

__all__ = ["KIND", "QuantizedExpertLinearSpec", "match"]


@dataclass(frozen=True, slots=True)
class QuantizedExpertLinearSpec(ExpertLinearSpec):
    """As `ExpertLinearSpec`; the weight is q [experts * n, k] or, of four bits (i4), i8 [experts * n, k / 2].

    Attributes:
        groups: scales of a row.
        side: dtype of scales and offsets, [experts * n, groups].
        offset: whether there are offsets.
    """

    groups: int
    side: str
    offset: bool

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"{super(QuantizedExpertLinearSpec, self).name}_g{self.groups}{self.side}{'x' if self.offset else ''}"

    @property
    def stored(self) -> int:
        """Bytes of the numbers of a row."""
        return self.k // 2 if self.weight == "i4" else self.k

    @property
    def row_bytes(self) -> int:
        """Numbers, scales and offsets."""
        return self.stored + self.groups * ELEMENT_BYTES[self.side] * (1 + self.offset)

    @property
    def weight_operands(self) -> dict[str, str]:
        """All parts."""
        sides = {"scale": self.side} | ({"offset": self.side} if self.offset else {})
        return {"q": "i8" if self.weight == "i4" else self.weight, **sides}

    def dots(self, library: Library, x: Ptr, weight: Sequence[Ptr], first: Value, count: int) -> list[Value]:
        """A vector of numbers at a time, each times its scale, plus its offset, times x."""
        q, sides = weight[0].at(first * self.stored), [side.at(first * self.groups) for side in weight[1:]]

        def step(i: Value, *totals: Value, mask: Value | None) -> list[Value]:
            columns = self._columns(i)
            xs = [x.load(column, mask=mask) for column in columns]
            found = []
            for row, total in enumerate(totals):
                packed = q.load(i + row * self.stored, mask=mask)
                for numbers, column, vector in zip(self._numbers(packed), columns, xs, strict=True):
                    parts = [broadcast(side[column // self.group + row * self.groups]) for side in sides]
                    value = fma(numbers, *parts) if self.offset else numbers * parts[0]
                    total = fma(value, vector, total)
                found.append(total)
            return found

        return [reduce_add(total) for total in sums_of_columns(self.stored, count, step)]

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.k // self.groups

    def _columns(self, i: Value) -> list[Value]:
        """The columns whose numbers begin at byte i."""
        if self.weight != "i4":
            return [i]
        half = split_block(self.k) // 2  # columns between the two numbers of a byte
        low = i // half * (2 * half) + i % half
        return [low, low + half]

    def _numbers(self, packed: Value) -> list[Value]:
        """Of a vector of bytes."""
        if self.weight == "f8e4m3":
            return [packed]
        if self.weight == "i8":
            return [to_f32(packed)]
        bytes_ = convert_int(packed, "i32", signed=False)
        return [to_f32((bytes_ & 15) - 8), to_f32((bytes_ >> 4) - 8)]


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `quantized_expert_linear`, or why there is none."""
    operation = only_op(group, quantized_expert_linear)
    if isinstance(operation, str):
        return operation
    q, scale, *offset = (type_of(value) for value in list(operation.operands)[2:])
    k, groups = static(type_of(operation.operands[0]).shape[2]), static(scale.shape[1])
    nibbles = quantized_expert_linear.attrs_of(operation)["layout"] == "row4"
    if (groups > 1 and k // groups % LANES) or (nibbles and split_block(k) // 2 % LANES):
        return f"groups and halves of blocks must be multiples of {LANES} columns; here {k} in {groups} groups"
    format_ = "i4" if nibbles else q.dtype.value
    return matched(group, operation, QuantizedExpertLinearSpec, format_, groups, scale.dtype.value, bool(offset))
