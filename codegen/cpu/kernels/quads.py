"""Integer dot products: rows quantized to int8 in groups of 32 numbers, times panels of int8 or of four bits in quads.

The layouts are those of `ir/layouts.py`. Sums of a group are exact in i32 whatever instruction makes them; then each
output is one chain of fma over the groups in order. So results do not depend on the batch, the tile or the ISA level.

A quantized row is one record in scratch: k bytes of numbers, then a scale (f32) and a start (i32) for each group.
`start` is what the sum of the group begins with: where weights are read as unsigned bytes q + z, it is -z * sum(x).
Where they are read as signed bytes (z = 0) it is -sum(x), for offsets only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warploom.codegen.cpu.control import carry, loop
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.panels import PANEL, prefetch_ahead
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    absolute,
    bitcast,
    broadcast,
    constant,
    convert_int,
    fma,
    intrinsic,
    maximum,
    recast,
    reduce_add,
    reduce_max,
    select,
    shuffle,
    to_f32,
)

GROUP = 32  # numbers of a row that share a scale
QUADS = GROUP // 4
HALF_BYTES = 4 * LANES  # of a quad: 16 columns
_ROUND, _ROUND_BITS = 12582912.0, 0x4B400000  # 1.5 * 2^23: adding it rounds to a whole number, ties to even
_LOW_NIBBLES, _SIGN_BITS = 0x0F0F0F0F, -0x7F7F7F80

Halves = tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class QuadFormat:
    """How numbers of a weight lie: rows of k columns, one f16 or f32 scale for each of `groups`, or offsets too.

    With one group in f32 the scale is left to the caller, after the sum.
    """

    k: int
    nibbles: bool
    groups: int = 1
    scale: str = "f32"
    offsets: bool = False

    @property
    def scales_at_end(self) -> bool:
        """Whether the caller multiplies by the scales."""
        return self.groups == 1 and self.scale == "f32" and not self.offsets

    @property
    def panel_bytes(self) -> int:
        """Of 32 rows."""
        return self.k * PANEL // (2 if self.nibbles else 1)

    @property
    def all_panel_bytes(self) -> int:
        """The same with scales and offsets."""
        sides = self.groups * PANEL * (4 if self.scale == "f32" else 2)
        return self.panel_bytes + sides * (2 if self.offsets else 1)

    def __str__(self) -> str:
        """As it stands in the names of kernels: `q4_18_f16_offsets`."""
        return f"q{4 if self.nibbles else 8}_{self.groups}_{self.scale}{'_offsets' * self.offsets}"

    @property
    def record_bytes(self) -> int:
        """Of a quantized row of x."""
        return -(-(self.k + 8 * (self.k // GROUP)) // 64) * 64

    def zero(self, isa: Isa) -> int:
        """What is added to each number where weights are read as unsigned bytes."""
        return 8 if self.nibbles else 128 if isa.has_vnni else 0


@dataclass(frozen=True, slots=True)
class QuadPanel:
    """32 rows of a weight; scales and offsets [groups, 32]."""

    weight: Ptr
    scale: Ptr
    offset: Ptr | None


def quantize_row(x: Ptr, record: Ptr, form: QuadFormat, isa: Isa) -> None:
    """Quantize k numbers as the op `quantize` does (i8, group 32): scale = max|x| / 127, 1 for zeros."""
    groups = form.k // GROUP
    scales, starts = record.cast("f32").at(form.k // 4), record.cast("i32").at(form.k // 4 + groups)
    with loop(0, groups) as g:
        halves = [x.load(g * GROUP + half * LANES) for half in (0, 1)]
        scale = reduce_max(maximum(*map(absolute, halves))) / 127.0
        scale = select(scale.eq(0.0), 1.0, scale)
        whole = [bitcast(value / broadcast(scale) + _ROUND, "i32") - _ROUND_BITS for value in halves]
        for half, value in enumerate(whole):
            record.store(g * GROUP + half * LANES, convert_int(value, "i8"))
        scales[g] = scale
        starts[g] = reduce_add(whole[0] + whole[1]) * -max(form.zero(isa), 1)


def dot(
    rows: Sequence[Ptr], panels: Sequence[QuadPanel], form: QuadFormat, isa: Isa, *, stream: bool
) -> list[list[Halves]]:
    """rows[i] . panels[p] for every pair of a record and a panel: result[i][p], 32 columns as two vectors."""
    group_bytes = form.panel_bytes // (form.k // GROUP)

    def body(g: Value, *sums: Value) -> list[Value]:
        scales = [row.cast("f32")[g + form.k // 4] for row in rows]
        starts = [row.cast("i32")[g + (form.k // 4 + form.k // GROUP)] for row in rows]
        row_sums = [to_f32(start) * (-1.0 / max(form.zero(isa), 1)) for start in starts]
        numbers = [row.at(g * GROUP) for row in rows]
        state = iter(sums)
        result = []
        for panel in panels:
            weight = panel.weight.at(g * group_bytes)
            if stream:
                prefetch_ahead(weight, group_bytes)
            for half in (0, 1):
                products = _products(numbers, starts, weight.at(half * HALF_BYTES), form, isa)
                for product, scale, row_sum in zip(products, scales, row_sums, strict=True):
                    result.append(_scaled(product, scale, row_sum, next(state), panel, g, half, form))
        return result

    zero = constant(0.0, "f32", LANES)
    totals = carry(0, form.k // GROUP, [zero] * (2 * len(rows) * len(panels)), body)
    by_half = [totals[i * len(rows) : (i + 1) * len(rows)] for i in range(2 * len(panels))]
    return [[(by_half[2 * p][r], by_half[2 * p + 1][r]) for p in range(len(panels))] for r in range(len(rows))]


def _scaled(
    product: Value, scale: Value, row_sum: Value, total: Value, panel: QuadPanel, g: Value, half: int, form: QuadFormat
) -> Value:
    """total + product of a group, times the scales of both sides, + the offset times the sum of the row's numbers."""
    if form.scales_at_end:
        return fma(to_f32(product), broadcast(scale), total)
    place = (g // (form.k // GROUP // form.groups)) * PANEL + half * LANES
    total = fma(to_f32(product), panel.scale.load(place) * broadcast(scale), total)
    if panel.offset is None:
        return total
    return fma(panel.offset.load(place), broadcast(row_sum * scale), total)


def _products(rows: list[Ptr], starts: list[Value], weight: Ptr, form: QuadFormat, isa: Isa) -> list[Value]:
    """Exact sums over a group of one half of a panel, 16 columns, for every row."""
    return (_vnni if isa.has_vnni else _avx2)(rows, starts, weight, form)


def _vnni(rows: list[Ptr], starts: list[Value], weight: Ptr, form: QuadFormat) -> list[Value]:
    """u8 weights times i8 activations, four products an addition (vpdpbusd)."""
    sums = [broadcast(start) for start in starts]
    for j, quad in enumerate(_unsigned_quads(weight, form)):
        unsigned = recast(quad, "i8")
        numbers = [recast(broadcast(row.cast("i32")[j]), "i8") for row in rows]
        sums = [
            intrinsic("llvm.x86.avx512.vpdpbusd.512", [total, unsigned, x], "i32", LANES)
            for total, x in zip(sums, numbers, strict=True)
        ]
    return sums


def _unsigned_quads(weight: Ptr, form: QuadFormat) -> list[Value]:
    """The quads of a group as vectors of 16 words of four unsigned bytes."""
    words = weight.cast("i32")
    if not form.nibbles:
        return [words.load(j * 2 * LANES) ^ _SIGN_BITS for j in range(QUADS)]
    pairs = [words.load(j * 2 * LANES) for j in range(QUADS // 2)]
    return [quad for pair in pairs for quad in (pair & _LOW_NIBBLES, (pair >> 4) & _LOW_NIBBLES)]


def _avx2(rows: list[Ptr], starts: list[Value], weight: Ptr, form: QuadFormat) -> list[Value]:
    """Eight columns at a time. Four bits: u8 x i8 in i16, which a group cannot overflow; else i16 x i16 in i32."""
    parts = [(_nibbles_avx2 if form.nibbles else _bytes_avx2)(rows, weight.at(part * 32)) for part in (0, 1)]
    initial = starts if form.nibbles else [constant(0, "i32") for _ in starts]
    whole = [shuffle(low, high, range(LANES)) for low, high in zip(*parts, strict=True)]
    return [total + broadcast(start) for total, start in zip(whole, initial, strict=True)]


def _nibbles_avx2(rows: list[Ptr], weight: Ptr) -> list[Value]:
    pairs = [weight.cast("i32").load(j * 2 * LANES, lanes=8) for j in range(QUADS // 2)]
    quads = [quad for pair in pairs for quad in (pair & _LOW_NIBBLES, (pair >> 4) & _LOW_NIBBLES)]
    ones = constant(1, "i16", 16)
    result = []
    for row in rows:
        total = constant(0, "i16", 16)
        for j, quad in enumerate(quads):
            x = recast(broadcast(row.cast("i32")[j], 8), "i8")
            total = total + intrinsic("llvm.x86.avx2.pmadd.ub.sw", [recast(quad, "i8"), x], "i16", 16)
        result.append(intrinsic("llvm.x86.avx2.pmadd.wd", [total, ones], "i32", 8))
    return result


def _bytes_avx2(rows: list[Ptr], weight: Ptr) -> list[Value]:
    """Each column has two sums, of the first and last two numbers of its quads; they are added at the end."""
    totals = [[constant(0, "i32", 8)] * 2 for _ in rows]
    for j in range(QUADS):
        wide = [convert_int(weight.load(j * 2 * HALF_BYTES + i * 16, lanes=16), "i16") for i in (0, 1)]
        for r, row in enumerate(rows):
            x = convert_int(recast(broadcast(row.cast("i32")[j], 4), "i8"), "i16")
            totals[r] = [
                total + intrinsic("llvm.x86.avx2.pmadd.wd", [w, x], "i32", 8)
                for total, w in zip(totals[r], wide, strict=True)
            ]
    return [shuffle(a, b, range(0, 16, 2)) + shuffle(a, b, range(1, 16, 2)) for a, b in totals]
