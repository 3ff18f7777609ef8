"""Latent rows of the cache to keys and values of each head: a block makes those of some keys and one head."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.kernels.latent_format import LatentFormat
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class ExpandTile:
    """Keys of a block, columns of the latent that are read at once, and how it is compiled."""

    rows: int
    depth: int
    num_warps: int
    num_stages: int


def expand_tile(target: CudaTarget) -> ExpandTile:
    """128 keys where sums wait in registers for matrix units alone, which read shared memory.

    Weights by TMA take as long (H100, 4096 keys of 16 heads: 59 us, 61 by TMA).
    """
    return ExpandTile(128, 64, 8, 3) if target.has_wgmma else ExpandTile(64, 32, 8, 3)


@dataclass(frozen=True, slots=True)
class ExpandLatentsSpec:
    """Keys, values and rotated keys, see `Expansion`, of rows of one layer of the cache.

    `of_keys` [heads * latent, plain] and `of_values` [heads * value, latent] are the weights that queries and results
    of rows as they are would be multiplied with. Beyond a context keys are zero, up to the next multiple of ALIGNED.
    """

    expansion: Expansion
    weights: tuple[DType, DType]
    tile: ExpandTile
    pdl: bool
    kv: DType = DType.BF16

    @property
    def format(self) -> LatentFormat:
        """Of rows in the cache."""
        return LatentFormat(self.expansion.latent, self.expansion.rotated, self.kv)

    @property
    def name(self) -> str:
        t = self.tile
        tile = f"{t.rows}x{t.depth}_w{t.num_warps}_s{t.num_stages}"
        weights = "_".join(map(str, self.weights))
        return f"expand_latents_{weights}_{self.expansion.name}_{self.expansion.latent}{self.format.suffix}_{tile}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        weights = Pointer("of_keys", self.weights[0]), Pointer("of_values", self.weights[1])
        batch = (Pointer(name, DType.I32) for name in ("page_table", "query_start", "context_lens"))
        return (Pointer("kv", self.kv), *weights, *batch, *self.expansion.operands)

    @property
    def dims(self) -> tuple[str, ...]:
        return "T", "S", "P"

    @property
    def grid(self) -> tuple[int, str, int]:
        return self.expansion.num_heads, f"{self.expansion.most} // {self.tile.rows}", 1

    @property
    def options(self) -> Options:
        return Options(self.tile.num_warps, self.tile.num_stages, pdl=self.pdl)

    @property
    def flops(self) -> str:
        e = self.expansion
        return f"{2 * e.num_heads * e.latent * (e.plain + e.value)} * T"  # and of contexts, which dims do not tell

    @property
    def bytes(self) -> str:
        e = self.expansion
        of_key, of_value = (dtype.numpy.itemsize for dtype in self.weights)
        weights = e.num_heads * e.latent * (e.plain * of_key + e.value * of_value)
        row = 2 * (e.rotated + e.num_heads * (e.plain + e.value))
        return f"{weights} + {self.format.bytes_of_row + row} * T"

    def source(self) -> str:
        e = self.expansion
        return render(
            "expand_latents.py.j2",
            spec=self,
            e=e,
            t=self.tile,
            f=self.format,
            block_k=padded(e.plain),
            block_v=padded(e.value),
            block_r=padded(e.rotated),
            fewest=FEWEST,
            aligned=ALIGNED,
            page_size=PAGE_SIZE,
        )

    def __str__(self) -> str:
        e = self.expansion
        return f"latents of {e.latent} to keys of {e.plain} and values of {e.value} of {e.num_heads} heads"
