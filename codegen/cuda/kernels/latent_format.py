"""How latent rows lie in the pages of a cache, as kernels read and write them; see `ir/ops/latent_rows.py`."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.ops.latent_rows import HIGHEST, LOWEST, SPARE, row_size, runs_of
from warploom.ir.types import DType

FACTS = {"lowest": LOWEST, "highest": HIGHEST, "spare": SPARE}  # of powers in f8


@dataclass(frozen=True, slots=True)
class Run:
    """Numbers of a latent that are loaded together: those of one power of two, or all of them.

    Attributes:
        name: what the names of its variables end with.
        block: its size, padded.
    """

    name: str
    start: int
    size: int
    block: int


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """Rows of latent + rotated numbers of one dtype."""

    latent: int
    rotated: int
    kv: DType

    @property
    def row(self) -> int:
        """Numbers of a token."""
        return self.latent + self.rotated

    @property
    def page(self) -> int:
        """Numbers and powers of a page."""
        size = PAGE_SIZE * row_size(self.latent, self.rotated, self.kv)
        assert isinstance(size, int)
        return size

    @property
    def powers(self) -> int:
        """Of a row; the last one is that of the rotated key."""
        return len(runs_of(self.latent, self.rotated, self.kv))

    @property
    def runs(self) -> tuple[Run, ...]:
        """Of the latent."""
        sizes = runs_of(self.latent, self.rotated, self.kv)[:-1] or (self.latent,)
        names = [str(i) for i in range(len(sizes))] if len(sizes) > 1 else [""]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return tuple(Run(n, start, size, padded(size)) for n, start, size in zip(names, starts, sizes, strict=True))

    @property
    def suffix(self) -> str:
        """Of the names of kernels that read such rows."""
        return "" if self.kv is DType.BF16 else f"_kv_{self.kv}"

    @property
    def bytes_of_row(self) -> int:
        """Of a token in the cache."""
        return self.page // PAGE_SIZE * self.kv.numpy.itemsize
