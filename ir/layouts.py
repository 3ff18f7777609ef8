"""How a weight matrix of N output rows and K columns lies in memory; layouts are named in the attributes of ops.

- `row`: [N, K], as checkpoints store it;
- `row4`: [N, K/2], two 4-bit numbers a byte: of every block of B columns (see `split_block`), byte i holds column i in
  its low and column B/2 + i in its high four bits, so that both halves meet consecutive columns of x;
- `panel`: [ceil(N/32), K, 32], 32 output rows side by side so that a vector load feeds 32 outputs; zero padded;
- `quad`: [ceil(N/32), K/4, 128], of a panel four consecutive columns of each of the 32 rows, as byte dot products
  (x86's VNNI) read them: byte 4 * row + column;
- `quad4`: [ceil(N/32), K/8, 128], a quad of columns 8j .. 8j+3 in the low and of 8j+4 .. 8j+7 in the high four bits;
- `panel_pair`, `quad_pair`, `quad4_pair`: the panels of the first and second half of N alternate (gate beside up).

Four bits hold q + 8 of a number q in [-8, 7]. Scales and offsets of a quantized weight have as many columns as there
are groups; they are packed in `side_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from warploom.errors import IRError

PANEL = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the name of a layout says.

    Attributes:
        panels: rows come in panels of 32; paired: those of both halves alternate.
        quads: four columns of a row are neighbours.
        nibbles: two numbers are one byte.
    """

    panels: bool = False
    paired: bool = False
    quads: bool = False
    nibbles: bool = False

    @property
    def columns_per_step(self) -> int:
        """Columns that one index of the second axis of the packed array holds, in panel layouts."""
        return (4 if self.quads else 1) * (2 if self.nibbles else 1)


LAYOUTS = {
    "row": Layout(),
    "row4": Layout(nibbles=True),
    "panel": Layout(panels=True),
    "panel_pair": Layout(panels=True, paired=True),
    "quad": Layout(panels=True, quads=True),
    "quad_pair": Layout(panels=True, quads=True, paired=True),
    "quad4": Layout(panels=True, quads=True, nibbles=True),
    "quad4_pair": Layout(panels=True, quads=True, nibbles=True, paired=True),
}


def layout_of(name: str) -> Layout:
    """The layout of a name; IRError if there is none."""
    if name not in LAYOUTS:
        raise IRError("unknown layout", expected=", ".join(LAYOUTS), found=name)
    return LAYOUTS[name]


def side_layout(name: str) -> str:
    """The layout of the scales and offsets of a weight in a layout."""
    layout = layout_of(name)
    return ("panel_pair" if layout.paired else "panel") if layout.panels else "row"


def split_block(k: int) -> int:
    """Columns of a block of `row4`: the largest power of two up to 128 that divides k; IRError if k is odd."""
    if k % 2:
        raise IRError("row4 needs an even number of columns", found=str(k))
    return min(k & -k, 128)


def packed_shape(n: int, k: int, name: str) -> tuple[int, ...]:
    """Shape of an [n, k] weight in a layout.

    Raises:
        IRError: unknown layout, pairs of halves that are no whole panels, or columns that do not fill its steps.
    """
    layout = layout_of(name)
    if layout.paired and n % (2 * PANEL):
        raise IRError(f"{name} needs two halves of whole panels", expected=f"n % {2 * PANEL} == 0", found=str(n))
    if not layout.panels:
        return (n, k // 2) if layout.nibbles and split_block(k) else (n, k)
    if k % layout.columns_per_step:
        raise IRError(f"{name} needs columns in {layout.columns_per_step}s", found=f"{k} columns")
    return (-(-n // PANEL), k // layout.columns_per_step, PANEL * 4 if layout.quads else PANEL)


def columns_of(shape: Sequence[int], name: str) -> int:
    """K of a weight whose packed shape is given."""
    layout = layout_of(name)
    return shape[1] * (layout.columns_per_step if layout.panels else 2 if layout.nibbles else 1)


class Kit(Protocol[T]):
    """What packing needs of arrays: numpy's have it, and values of the IR."""

    def shape(self, x: T) -> tuple[int, ...]:
        """Its shape."""

    def reshape(self, x: T, shape: tuple[int, ...]) -> T:
        """As numpy's."""

    def transpose(self, x: T, axes: tuple[int, ...]) -> T:
        """As numpy's."""

    def pad_rows(self, x: T, count: int) -> T:
        """`count` rows of zeros more."""

    def first_rows(self, x: T, count: int) -> T:
        """The first `count` rows."""

    def join(self, x: T) -> T:
        """[a, b, 2, ...] of 4-bit numbers to [a, b, ...] of bytes."""

    def split(self, x: T) -> T:
        """The inverse of `join`."""


def pack(kit: Kit[T], weight: T, name: str) -> T:
    """An [n, k] weight in a layout."""
    layout, (n, k) = layout_of(name), kit.shape(weight)
    result = packed_shape(n, k, name)
    if not layout.panels:
        if not layout.nibbles:
            return weight
        block = split_block(k)
        return kit.reshape(kit.join(kit.reshape(weight, (n, k // block, 2, block // 2))), result)
    panels, step = result[0], layout.columns_per_step
    if n % PANEL:
        weight = kit.pad_rows(weight, panels * PANEL - n)
    if layout.paired:
        halves = kit.reshape(weight, (2, panels // 2, PANEL * k))
        weight = kit.transpose(halves, (1, 0, 2))
    inner = 4 if layout.quads else 1
    grouped = kit.reshape(weight, (panels, PANEL, k // step, step // inner, inner))
    ordered = kit.transpose(grouped, (0, 2, 3, 1, 4))  # [panels, steps, 1 or 2, 32, 1 or 4]
    return kit.reshape(kit.join(ordered) if layout.nibbles else ordered, result)


def unpack(kit: Kit[T], packed: T, n: int, name: str) -> T:
    """The [n, k] weight of an array in a layout."""
    layout, shape = layout_of(name), kit.shape(packed)
    k = columns_of(shape, name)
    if not layout.panels:
        if not layout.nibbles:
            return packed
        block = split_block(k)
        return kit.reshape(kit.split(kit.reshape(packed, (n, k // block, block // 2))), (n, k))
    panels, step, inner = shape[0], layout.columns_per_step, 4 if layout.quads else 1
    if layout.nibbles:
        packed = kit.split(packed)
    ordered = kit.reshape(packed, (panels, k // step, step // inner, PANEL, inner))
    rows = kit.transpose(ordered, (0, 3, 1, 2, 4))
    if layout.paired:
        rows = kit.transpose(kit.reshape(rows, (panels // 2, 2, PANEL * k)), (1, 0, 2))
    return kit.first_rows(kit.reshape(rows, (panels * PANEL, k)), n)


class _Numpy:
    """The kit of numpy arrays; 4-bit numbers are int8 or ml_dtypes' int4."""

    def shape(self, x: np.ndarray) -> tuple[int, ...]:
        return x.shape

    def reshape(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return x.reshape(shape)

    def transpose(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return x.transpose(axes)

    def pad_rows(self, x: np.ndarray, count: int) -> np.ndarray:
        return np.concatenate((x, np.zeros((count, x.shape[1]), x.dtype)))

    def first_rows(self, x: np.ndarray, count: int) -> np.ndarray:
        return x[:count]

    def join(self, x: np.ndarray) -> np.ndarray:
        low, high = np.moveaxis((x.astype(np.int8) + 8).astype(np.uint8), 2, 0)
        return (low | high << 4).view(np.int8)

    def split(self, x: np.ndarray) -> np.ndarray:
        words = np.ascontiguousarray(x).view(np.uint8)
        return np.stack((words & 15, words >> 4), 2).view(np.int8) - 8


def pack_array(weight: np.ndarray, layout: str) -> np.ndarray:
    """[n, k] to a layout."""
    return np.ascontiguousarray(pack(_Numpy(), weight, layout))


def unpack_array(packed: np.ndarray, n: int, layout: str) -> np.ndarray:
    """A layout back to [n, k]; numbers of four bits become int8."""
    return unpack(_Numpy(), packed, n, layout)


def rows_of(packed: np.ndarray, rows: np.ndarray, layout: str) -> np.ndarray:
    """Some rows of a packed [n, k]: [*rows.shape, k]."""
    if not LAYOUTS[layout].panels:
        return unpack_array(packed[rows.reshape(-1)], rows.size, layout).reshape(*rows.shape, -1)
    panel, half = rows // PANEL, packed.shape[0] // 2
    if LAYOUTS[layout].paired:
        panel = panel % half * 2 + panel // half
    single = layout.removesuffix("_pair")
    panels = unpack_array(packed[panel.reshape(-1)], rows.size * PANEL, single)
    picked = np.arange(rows.size) * PANEL + rows.reshape(-1) % PANEL
    return panels[picked].reshape(*rows.shape, -1)
