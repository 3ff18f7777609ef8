"""Latent rows of 8-bit caches: runs of numbers on powers of two; see `ir/ops/latent_rows.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.kernels.row_i8 import peak_bits, power, round_row_to_i8
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import LANES, Value, maximum, minimum, to_f32
from warploom.ir.ops.int8_rows import BIAS, MANTISSA_BITS
from warploom.ir.ops.latent_rows import F8_MAX, HIGHEST, LOWEST, SPARE, row_size, runs_of
from warploom.ir.types import DType

PAGE = 16


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Rows of latent + rotated numbers, multiples of 16 each, in pages of 16; runs of them, if they stand on powers."""

    latent: int
    rotated: int
    kv_dtype: str

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.latent + self.rotated

    @property
    def page(self) -> int:
        """Numbers and powers of a page."""
        size = PAGE * row_size(self.latent, self.rotated, DType(self.kv_dtype))
        assert isinstance(size, int)
        return size

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First number and size of each."""
        sizes = runs_of(self.latent, self.rotated, DType(self.kv_dtype))
        return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """First number, size and index of the runs between two columns."""
        return ((first, size, run) for run, (first, size) in enumerate(self.runs) if start <= first < stop)

    def write(self, page: Ptr, offset: Value, start: int, source: Ptr, size: int) -> None:
        """f32 numbers `start` to `start` + `size` of a row, to its place in a page."""
        row = page.at(offset * self.width)
        if not self.runs:
            with loop(0, size, LANES) as i:
                row.store(start + i, source.load(i))
        for first, columns, run in self.parts(start, start + size):
            numbers, round_run = row.at(first), round_row_to_i8 if self.kv_dtype == "i8" else _round_run_to_f8
            mark = round_run(source.at(first - start), columns, numbers.store)
            page.at(PAGE * self.width + run * PAGE)[offset] = mark

    def widen(self, page: Ptr, out: Ptr) -> None:
        """What the rows of a page stand for, f32 [16, width]."""
        for run, (first, size) in enumerate(self.runs):
            with loop(0, PAGE) as key:
                mark = page.at(PAGE * self.width + run * PAGE)[key]
                scale = power(mark) if self.kv_dtype == "i8" else mark
                with loop(key * self.width + first, key * self.width + (first + size), LANES) as i:
                    out.store(i, to_f32(page.load(i)) * scale)


def _round_run_to_f8(x: Ptr, columns: int, store: Callable[[Value, Value], None]) -> Value:
    """Hand each 16 numbers with the first's column to `store`; the power of the run, f32."""
    exponent = minimum(maximum((peak_bits(x, columns) >> MANTISSA_BITS) - (BIAS + SPARE), LOWEST), HIGHEST)
    inverse = power(-exponent)
    with loop(0, columns, LANES) as i:
        store(i, minimum(maximum(x.load(i) * inverse, -F8_MAX), F8_MAX))
    return power(exponent)
