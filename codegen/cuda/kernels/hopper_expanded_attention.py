"""`expanded_attention.py` on Hopper, in Gluon: like `hopper_attention.py`, but keys are rows of one matrix.

A block takes 128 tokens of a head. One warp brings keys and values by TMA, two groups of four warps compute 64 rows
each. What is said there of the first warps and of barriers is so here. Keys beyond a context are zero: nothing has to
be cleaned.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Operand, Options, Pointer, TensorMap
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E
from warploom.codegen.cuda.kernels.expanded_attention import ExpandedProblem
from warploom.codegen.cuda.kernels.expansion import ALIGNED, FEWEST, Expansion
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType

ROWS = 128
KEYS = 128
ATOM = 64  # columns of bf16 that a swizzled line of 128 bytes holds
LAYOUT = "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)"


@dataclass(frozen=True, slots=True)
class HopperExpandedAttentionSpec(OfPages):
    """See `ExpandedAttentionSpec`."""

    problem: ExpandedProblem
    num_stages: int = 2

    @property
    def name(self) -> str:
        return f"hopper_{self.problem.name}_{ROWS}x{KEYS}_s{self.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        p = self.problem
        maps = (
            TensorMap(operand.name, operand.dtype, shape, (KEYS, ATOM), LAYOUT)
            for operand, shape in zip(p.expansion.operands, p.expansion.shapes, strict=True)
        )
        return (*p.inputs, *maps, *p.batch, Pointer("out", DType.BF16))

    @property
    def grid(self) -> tuple[int, str, int]:
        return self.problem.expansion.num_heads, f"T // {ROWS} + S + 1", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=True)

    def source(self) -> str:
        return render(
            "hopper_expanded_attention.py.j2",
            spec=self,
            p=self.problem,
            e=self.problem.expansion,
            rows=ROWS // 2,
            keys=KEYS,
            atom=ATOM,
            scale=self.problem.scale * LOG2_E,
            fewest=FEWEST,
            aligned=ALIGNED,
        )

    def __str__(self) -> str:
        e = self.problem.expansion
        sizes = f"{e.plain} + {e.rotated} and values of {e.value}"
        return f"attention of {e.num_heads} heads over expanded keys of {sizes}, by TMA"


def takes(expansion: Expansion, target: CudaTarget) -> bool:
    """Whether this kernel computes a problem: DeepSeek's."""
    return target.has_wgmma and (expansion.plain, expansion.rotated, expansion.value) == (128, 64, 128)
