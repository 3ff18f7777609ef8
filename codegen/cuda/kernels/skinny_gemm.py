"""A linear layer of few tokens: tensor cores, still limited by the memory that W is read from.

W is the left side of the product and the tokens are its columns, because Hopper's wgmma takes 64 rows on the left but
as few as 8 columns: out^T = W @ x^T. The number of tokens is padded to `block_t`.

Where there are few tiles, `splits` blocks share one: each sums its part of the columns and leaves the sum in
`partials`; the last to arrive (a counter tells) adds the parts, always in the same order. So the result never depends
on who was last, and no second kernel is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Operand, Options, Pointer, TensorMap
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import SkinnyTile
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType


@dataclass(frozen=True, slots=True)
class SkinnySpec(OfTokens):
    """out [T, width] for x [T, k]; partials f32 [splits, tiles, part], counters [tiles]."""

    problem: LinearProblem
    tile: SkinnyTile
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        split = f"_k{t.splits}" if t.splits > 1 else ""
        split += f"_a{t.ahead}" if t.ahead else ""
        tma = "_tma" if t.tma else ""
        return (
            f"{self.problem.name}_skinny_{t.block_n}x{t.block_t}x{t.block_k}{split}{tma}_w{t.num_warps}s{t.num_stages}"
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Those of the problem, then what `extra_operands` names."""
        dtypes = {"w_rows": DType.BF16, "partials": DType.F32, "counters": DType.I32}
        maps = {"w": self._weight} if self.tile.tma else {}
        if self.x_by_tma:
            maps["x"] = TensorMap("x", DType.BF16, ("T", self.problem.k), (self.tile.block_t, self.tile.block_k))
        extra = (Pointer(name, dtypes[name]) for name in self.extra_operands)
        return (*(maps.get(p.name, p) for p in self.problem.operands), *extra)

    @property
    def x_by_tma(self) -> bool:
        """Whether x goes from memory to the tensor cores as it is, by TMA."""
        return self.tile.tma and self.problem.norm is None and self.problem.x is DType.BF16

    @property
    def extra_operands(self) -> tuple[str, ...]:
        """`w_rows`: W once more, as an address to prefetch; `partials` and `counters`: what the splits share."""
        rows = ("w_rows",) if self.tile.tma and self.tile.ahead else ()
        return (*rows, "partials", "counters") if self.tile.splits > 1 else rows

    @property
    def _weight(self) -> TensorMap:
        """[2, n / 2, k] for SwiGLU, so that one copy brings rows of gate and of up."""
        p, t = self.problem, self.tile
        if p.epilogue == "swiglu":
            return TensorMap("w", DType.BF16, (2, p.width, p.k), (2, t.block_n // 2, t.block_k))
        return TensorMap("w", DType.BF16, (p.n, p.k), (t.block_n, t.block_k))

    @property
    def tiles_n(self) -> int:
        """Tiles that cover the rows of W."""
        return -(-self.problem.n // self.tile.block_n)

    @property
    def grid(self) -> tuple[int, str, int]:
        t = self.tile
        return self.tiles_n, f"(T + {t.block_t - 1}) // {t.block_t}", t.splits

    @property
    def part(self) -> int:
        """Floats that a block leaves: its sums, and the sums of squares where there is a norm."""
        return (self.tile.block_n + (self.problem.norm is not None)) * self.tile.block_t

    def tiles(self, tokens: int) -> int:
        """Tiles of up to `tokens` tokens; there are as many counters, and `splits` parts for each."""
        return self.tiles_n * -(-tokens // self.tile.block_t)

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, num_stages=self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        pieces = -(-self.problem.k // self.tile.block_k)
        per_split = -(-pieces // self.tile.splits)
        return render("skinny_gemm.py.j2", spec=self, p=self.problem, t=self.tile, per_split=per_split)

    def __str__(self) -> str:
        t = self.tile
        return f"{self.problem.name} of up to {t.block_t} tokens a block, tiles of {t.block_n} x {t.block_k} weights"
