"""Products with experts for many tokens: tensor cores, tokens in the order of their experts.

A block computes some rows of one expert's W times some of its tokens. W is the left side of the product, as in
`skinny_gemm`: tokens can be as few as 8, and numbers of few bits become bf16 in registers, from where Hopper's wgmma
takes its left side. One warp group must do for those: with two, such products were found to race (Triton 3.6, H100).

The grid is as large as any choice of experts may need; blocks that have nothing to do end at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warploom.codegen.cuda.kernel import Operand, Options, Pointer, TensorMap
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem
from warploom.codegen.cuda.kernels.expert_tiles import ExpertGemmTile
from warploom.codegen.cuda.kernels.mixed_runs import LONGEST, Run, runs_of
from warploom.codegen.cuda.kernels.sort_experts import SortExpertsSpec
from warploom.codegen.cuda.kernels.token_work import OfTokens
from warploom.codegen.cuda.render import render
from warploom.ir.layouts import split_block
from warploom.ir.types import DType

Rows = Literal["tokens", "pairs", "places"]


@dataclass(frozen=True, slots=True)
class ExpertGemmSpec(OfTokens):
    """out of x, for the pairs in `order` and the blocks that `SortExpertsSpec` found.

    Attributes:
        x_rows: x has a row for each token, for each pair of token and choice, or for each place in `order`.
        out_rows: the result has a row for each pair, or for each place.
    """

    problem: ExpertProblem
    tile: ExpertGemmTile
    x_rows: Rows
    out_rows: Rows
    pdl: bool

    @property
    def name(self) -> str:
        t = self.tile
        rows = f"{self.x_rows}_to_{self.out_rows}"
        shape = f"{t.block_n}x{t.block_t}x{self.block_k}{'_tma' if t.tma else ''}_w{t.num_warps}s{t.num_stages}"
        shape += "_sums" if self.scales_sums else ""
        return f"experts_{self.problem.name}_{rows}_gemm_{shape}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """x, w, scale, offset, bias, order, blocks, out."""
        p = self.problem
        weights: tuple[Operand, ...] = p.weight_operands
        if self.tile.tma:
            weights = (self._weight_map, *weights[1:])
        indices = Pointer("order", DType.I32), Pointer("blocks", DType.I32)
        return (Pointer("x", DType.BF16), *weights, *indices, Pointer("out", p.out))

    @property
    def _weight_map(self) -> TensorMap:
        """[parts of all experts, width, k]: a copy brings rows of one part, whose products are sums of their own."""
        p, t = self.problem, self.tile
        parts = len(p.parts)
        shape = (parts * p.experts, p.width, p.k)
        return TensorMap("w", DType.BF16, shape, (1, self.block_out, t.block_k))

    @property
    def block_out(self) -> int:
        """Columns of the result that a block computes."""
        return self.tile.block_n // len(self.problem.parts)

    @property
    def block_k(self) -> int:
        """Columns of a step: for quantized weights, whole blocks of packed numbers and whole runs, that divide rows."""
        p = self.problem
        if p.is_plain:
            return self.tile.block_k
        least = split_block(p.k) if p.weight.bits == 4 else LONGEST if p.k % LONGEST == 0 else p.run
        most = max(1, self.tile.block_k // least)
        return least * next(count for count in range(most, 0, -1) if count == 1 or p.k % (count * least) == 0)

    @property
    def scales_sums(self) -> bool:
        """Whether tensor cores multiply numbers as they are in memory, and it is sums of runs that are scaled."""
        weight = self.problem.weight
        return self.tile.sums and weight.groups > 0 and not weight.offset and not weight.is_mxfp4

    @property
    def run(self) -> int:
        """Columns of a product."""
        return self.problem.run or self.block_k

    @property
    def runs(self) -> list[Run]:
        """The products of a step."""
        return runs_of(self.problem.linear, self.block_k) if self.problem.weight.groups else [Run(0, (0,), (0,))]

    @property
    def grid(self) -> tuple[int, str, int]:
        p = self.problem
        most = SortExpertsSpec(p.experts, p.choices, self.tile.block_t, False).most_blocks
        return -(-p.width // self.block_out), most, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, num_stages=self.tile.num_stages, pdl=self.pdl)

    def source(self) -> str:
        return render("expert_gemm.py.j2", spec=self, p=self.problem, t=self.tile)

    def __str__(self) -> str:
        t = self.tile
        return f"experts {self.problem.name}, tiles of {t.block_n} rows of weights x {t.block_t} tokens"
