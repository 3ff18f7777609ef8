"""Products with the chosen experts, whose weights are MXFP4: packed bytes are read, and are numbers in registers only.

A number is found in a table by its four bits: the instruction that permutes 16 floats (AVX-512), or 16 bytes, of which
the numbers, doubled, are integers. Both give the same floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warploom.codegen.cpu.control import carry
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.expert_linear import KIND, ExpertLinearSpec, matched
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    bitcast,
    broadcast,
    constant,
    convert_int,
    fma,
    intrinsic,
    reduce_add,
    to_f32,
)
from warploom.codegen.groups import only_op
from warploom.ir.function import Function
from warploom.ir.layouts import split_block
from warploom.ir.ops.mxfp4 import GROUP, NUMBERS, mxfp4_expert_linear

__all__ = ["KIND", "Mxfp4ExpertLinearSpec", "match"]


@dataclass(frozen=True, slots=True)
class Mxfp4ExpertLinearSpec(ExpertLinearSpec):
    """As `ExpertLinearSpec`; the weight is q i8 [experts * n, k / 2] and scale i8 [experts * n, k / 32].

    Scales of 2^-127 are read as 0.
    """

    @property
    def row_bytes(self) -> int:
        """Two numbers a byte, and a byte for every group."""
        return self.k // 2 + self.k // GROUP

    @property
    def weight_operands(self) -> dict[str, str]:
        """Both parts."""
        return {"q": "i8", "scale": "i8"}

    def dots(self, library: Library, x: Ptr, weight: Sequence[Ptr], first: Value, count: int) -> list[Value]:
        """Group by group: 32 numbers of a row are summed, times twice their scale; the sum of all is halved."""
        q, scale = weight[0].at(first * (self.k // 2)), weight[1].at(first * (self.k // GROUP))
        half = split_block(self.k) // 2  # columns between the two numbers of a byte
        size = min(half, GROUP)  # bytes of a step: one group, or two
        table = _Table(library)

        def step(i: Value, *totals: Value) -> list[Value]:
            byte = i * size
            low = byte // half * (2 * half) + byte % half
            columns = [low + part for part in range(0, size, LANES)] + [low + (half + p) for p in range(0, size, LANES)]
            xs = [x.load(column) for column in columns]
            sums = []
            for row, total in enumerate(totals):
                q.prefetch(byte + (row + count) * (self.k // 2))  # short rows surprise the hardware
                pairs = [table.numbers(q.at(byte + (row * (self.k // 2) + part))) for part in range(0, size, LANES)]
                numbers = [*(low for low, _ in pairs), *(high for _, high in pairs)]
                powers = scale.at(row * (self.k // GROUP))
                for place in range(0, len(xs), 2):  # two vectors are a group
                    power = _power(powers[columns[place] // GROUP])
                    group = fma(numbers[place + 1], xs[place + 1], numbers[place] * xs[place])
                    total = fma(group, broadcast(power), total)
                sums.append(total)
            return sums

        totals = carry(0, self.k // 2 // size, [constant(0.0, "f32", LANES)] * count, step)
        return [reduce_add(total) * 0.5 for total in totals]


class _Table:
    """Finds numbers, doubled, by their four bits."""

    def __init__(self, library: Library) -> None:
        self.wide = library.isa.vector_bits == 512
        element, data = ("f32", 2 * NUMBERS) if self.wide else ("i8", (2 * NUMBERS).astype("int8"))
        self.entries = library.table(data, element).load(0)

    def numbers(self, q: Ptr) -> tuple[Value, Value]:
        """Those in the low and in the high halves of 16 bytes."""
        packed = q.load(0)
        if self.wide:
            words = convert_int(packed, "i32", signed=False)
            return self._permuted(words), self._permuted(words >> 4)  # by the low four bits of each word
        low, high = packed & 15, (packed >> 4) & 15
        found = [intrinsic("llvm.x86.ssse3.pshuf.b.128", [self.entries, index], "i8", LANES) for index in (low, high)]
        return to_f32(found[0]), to_f32(found[1])

    def _permuted(self, words: Value) -> Value:
        return intrinsic("llvm.x86.avx512.permvar.sf.512", [self.entries, words], "f32", LANES)


def _power(scale: Value) -> Value:
    """2^(s - 127) of a byte s, whose bits are s << 23."""
    return bitcast(convert_int(scale, "i32", signed=False) << 23, "f32")


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `mxfp4_expert_linear`, or why there is none."""
    operation = only_op(group, mxfp4_expert_linear)
    return operation if isinstance(operation, str) else matched(group, operation, Mxfp4ExpertLinearSpec, "mxfp4")
