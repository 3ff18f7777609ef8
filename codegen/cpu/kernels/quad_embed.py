"""Embedding lookup in a table of quads, which it shares with an output layer."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernels.panels import PANEL
from warploom.codegen.cpu.kernels.quads import QuadFormat
from warploom.codegen.cpu.values import Value, convert_int, maximum, minimum, to_f32


@dataclass(frozen=True, slots=True)
class QuadEmbedSpec:
    """Row ids[t] of a table of `rows` rows as f32 [T, form.k]; ids outside are clamped."""

    rows: int
    form: QuadFormat

    dims = ("T",)
    tiles = "T"
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"embed_{self.form}_{self.rows}x{self.form.k}"

    @property
    def flops(self) -> str:
        """A product per element, and a sum where there are offsets."""
        return f"T * {self.form.k * (2 if self.form.offsets else 1)}"

    @property
    def bytes(self) -> str:
        """A cache line for each quad, or pair of them, and the result."""
        lines = self.form.k // (8 if self.form.nibbles else 4)
        return f"T * {lines * 64 + self.form.k * 4}"

    def emit(self, library: Library) -> None:
        """Operands: ids, table, scale, offset (if there are any), out."""
        form = self.form
        sides = {"scale": form.scale} | ({"offset": form.scale} if form.offsets else {})
        operands = {"ids": "i32", "table": "i8", **sides, "out": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as token:
            row = convert_int(minimum(maximum(k.operands["ids"][token], 0), self.rows - 1), "i64")
            panel, lane = row // PANEL, row % PANEL
            words = k.operands["table"].at(panel * form.panel_bytes).cast("i32")
            out = k.operands["out"].at(token * form.k)
            quads_per_word = 2 if form.nibbles else 1
            with loop(0, form.k // 4 // quads_per_word) as j:
                word = words[j * PANEL + lane]
                group = (j * (4 * quads_per_word)) // (form.k // form.groups)
                side = (panel * form.groups + group) * PANEL + lane
                for i in range(4 * quads_per_word):
                    value = to_f32(_digit(word, i, form)) * k.operands["scale"][side]
                    value = value + k.operands["offset"][side] if form.offsets else value
                    out[j * (4 * quads_per_word) + i] = value


def _digit(word: Value, i: int, form: QuadFormat) -> Value:
    """Number i of a word: of four bytes, or of eight nibbles, the low ones first."""
    if form.nibbles:
        return ((word >> (8 * (i % 4) + 4 * (i // 4))) & 15) - 8
    return (word << (24 - 8 * i)).shift_right_signed(24)
