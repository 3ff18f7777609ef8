"""What a kernel waits for because it is cut into blocks: the shares of the multiprocessors, beside those of the GPU.

Products on matrix units take tiles of both factors from the cache into a multiprocessor's shared memory, and unpack
numbers of few bits there; a block does that at its own pace, however fast memory is. Products of one row stream past
vector units. Attention over a prompt begins and ends each of its blocks. All rates are of one kind of GPU, measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

BLOCK_ROWS = 128  # of a tile, at most
COLUMNS = (16, 256)  # of a tile, least and most
SQUARE = 63  # columns: a tile that has fewer has fewer rows instead
FEWEST_ROWS = 16  # that matrix units compute with
TILE_BYTES = 48 << 10  # of shared memory: a block that has more keeps tiles there
HEAD = 128  # numbers of a head, of which rates of attention are
FEW_BITS = ("i8", "i4")
BYTES = {"bf16": 2.0, "f8e4m3": 1.0, "i8": 1.0, "i4": 0.5}  # of a number of a weight
ACTIVATION_BYTES = {"f8e4m3": 1}  # beside such weights; beside others 2
SUM_BYTES = 4


@dataclass(frozen=True)
class Product:
    """x [rows, depth] times a weight [columns, depth]; of attention: tokens of a sequence, no columns, a head's depth.

    Attributes:
        numbers: what the weight is stored in, i4 included.
    """

    rows: int
    columns: int
    depth: int
    numbers: str


@dataclass(frozen=True)
class Blocks:
    """How a kernel is launched. `grid`: tiles, or x: of columns, y: of rows, z: parts of the depth."""

    grid: tuple[int, int, int]
    shared_bytes: int = 0

    @property
    def count(self) -> int:
        """Of the grid."""
        x, y, z = self.grid
        return x * y * z


@dataclass(frozen=True)
class Multiprocessors:
    """What those of a GPU do.

    Attributes:
        count: how many there are.
        shared_bytes: of shared memory in one of them.
        fill_us: of a tile of a product: its first parts come, its results go.
        block_numbers: of both factors of a product, per second, that one block multiplies.
        bytes: per second, from the cache into all of them.
        unpacked: numbers per second that one block unpacks, by their dtype.
        block_flops: per second, of a block that unpacks as well: it does one after the other.
        together: blocks of one multiprocessor that share it do so many times the work of one.
        streamed: numbers per second that all unpack in a product of one row, by dtype.
        streamed_rows: rows of a weight per second that all add up in such a product.
        combine_us, combined_bytes: the last block of several that share a sum adds up their parts: before it can, and
            per second.
        keys_us, attend_us: with heads of 128, the keys of one block of attention of few tokens; a block of attention
            over a prompt, but for its products.
        begun_blocks: per second.
    """

    count: int
    shared_bytes: int
    fill_us: float
    block_numbers: float
    bytes: float
    unpacked: dict[str, float]
    block_flops: float
    together: float
    streamed: dict[str, float]
    streamed_rows: float
    combine_us: float
    combined_bytes: float
    keys_us: float
    attend_us: float
    begun_blocks: float


class Waits(NamedTuple):
    """Seconds; `serial` is beside the others.

    Attributes:
        staged: the weight's bytes, or the cache's, go through shared memory.
        slower: by how much matrix units are, of which some wait for the others.
    """

    serial: float = 0.0
    memory: float = 0.0
    compute: float = 0.0
    staged: bool = False
    slower: float = 1.0


def waits_of_product(product: Product, blocks: Blocks, gpu: Multiprocessors) -> Waits:
    """Return what a linear layer waits for."""
    if product.rows > 1 or blocks.shared_bytes > TILE_BYTES:
        return _tiled(product, blocks, gpu)
    if product.numbers not in FEW_BITS:
        return Waits(staged=product.numbers != "bf16")
    padded = product.columns << (product.depth - 1).bit_length()  # blocks are powers of two
    rows = product.columns / gpu.streamed_rows
    return Waits(serial=gpu.fill_us / 1e6, compute=padded / gpu.streamed[product.numbers] + rows, staged=True)


def _tiled(product: Product, blocks: Blocks, gpu: Multiprocessors) -> Waits:
    tiling = _tiling(product, blocks)
    held = max(1, gpu.shared_bytes // max(1, blocks.shared_bytes))
    rounds = ceil(tiling.tiles / (gpu.count * held))
    weight = product.columns * product.depth * BYTES[product.numbers]
    x = product.rows * product.depth * ACTIVATION_BYTES.get(product.numbers, 2)
    moved = weight * tiling.down + x * tiling.across
    factors = product.depth * (product.columns * tiling.down + product.rows * tiling.across)
    one_block = factors / (tiling.tiles * max(1.0, tiling.chains / 2)) / gpu.block_numbers
    return Waits(
        serial=rounds * gpu.fill_us / 1e6 + _combining(product, tiling, gpu),
        memory=max(moved / gpu.bytes, one_block),
        compute=_unpacking(product, tiling, held, gpu) if product.numbers in FEW_BITS else 0.0,
        staged=True,
        slower=_slower(tiling.tiles, gpu.count) if held == 1 else max(1.0, gpu.count / tiling.tiles),
    )


class _Tiling(NamedTuple):
    """How many tiles a result has down and across, in how many parts each is summed, and chains of them in a block."""

    down: int
    across: int
    splits: int
    chains: float

    @property
    def tiles(self) -> int:
        return self.down * self.across * self.splits


def _tiling(product: Product, blocks: Blocks) -> _Tiling:
    """A block of a persistent kernel has several tiles; they are not wider than a tile can be."""
    _, y, splits = blocks.grid
    down = y if y > 1 else ceil(product.rows / BLOCK_ROWS)
    width = product.columns * splits * down / blocks.count
    if width < SQUARE < product.rows / down:
        down, width = 2 * down, 2 * width
    width = min(max(width, COLUMNS[0]), COLUMNS[1])
    return _Tiling(down, ceil(product.columns / width), splits, max(1.0, width / (SQUARE + 1)))


def _unpacking(product: Product, tiling: _Tiling, held: int, gpu: Multiprocessors) -> float:
    """Seconds in which the multiprocessor with the most blocks unpacks and multiplies what they have."""
    rows = max(FEWEST_ROWS, ceil(product.rows / tiling.down))
    each = 1 / gpu.unpacked[product.numbers] + 2 * rows / gpu.block_flops
    chain = product.columns * product.depth * tiling.down / (tiling.tiles * tiling.chains) * each
    full, rest = divmod(ceil(tiling.tiles / gpu.count), held)
    return chain * (full * _shared(held * tiling.chains, gpu) + (_shared(rest * tiling.chains, gpu) if rest else 0.0))


def _shared(chains: float, gpu: Multiprocessors) -> float:
    """How much longer chains take side by side than one alone."""
    return max(1.0, chains / gpu.together)


def _combining(product: Product, tiling: _Tiling, gpu: Multiprocessors) -> float:
    """The last block of a tile adds up the parts of all."""
    if tiling.splits == 1:
        return 0.0
    parts = product.rows * product.columns * SUM_BYTES / (tiling.down * tiling.across) * tiling.splits
    return gpu.combine_us / 1e6 + parts / gpu.combined_bytes


def _slower(tiles: int, multiprocessors: int) -> float:
    """Some of a GPU has nothing to do while the last tiles are computed."""
    return ceil(tiles / multiprocessors) * multiprocessors / tiles


def waits_of_attention(product: Product, blocks: Blocks, gpu: Multiprocessors) -> Waits:
    """Return what attention waits for."""
    if product.rows == 1:
        keys = gpu.keys_us * product.depth / HEAD
        return Waits(serial=(keys + gpu.combine_us * (blocks.grid[2] > 1)) / 1e6, staged=True)
    part = min(1.0, product.depth / HEAD)
    begun = ceil(blocks.count / gpu.count) * gpu.attend_us / 1e6 * part
    # Later tokens have more keys; a short head has as many exponentials.
    return Waits(serial=begun, staged=True, slower=max(1.0, 2 * gpu.count / blocks.count) / part)
