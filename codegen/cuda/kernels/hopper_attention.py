"""Attention of ragged chunks of prompts on Hopper: FlashAttention-3 (Shah et al. 2024) over pages, in Gluon.

A block takes 128 rows, tokens of one sequence times the query heads of one kv head, as `ragged_attention` does, whose
numbering of blocks it shares. One warp brings pages by TMA; two groups of four warps compute 64 rows each, and hide
the exponentials of one block of keys behind the matrix products of another.

A row's float operations depend on its own position alone: blocks of keys are at absolute positions, and one that is
masked for a row multiplies its state by 1 and adds 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Operand, Options, Pointer, TensorMap
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E, AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType

ROWS = 128
HEAD_DIMS = 64, 128  # of which TMA brings 128 bytes of a page at once
ATOM = 64  # columns of bf16 that a swizzled line of 128 bytes holds
LAYOUT = "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)"
REGISTERS = 240  # of a thread that computes


@dataclass(frozen=True, slots=True)
class HopperAttentionSpec:
    """out [T, num_heads, head_dim], for any T and S; kv has C pages."""

    problem: AttentionProblem
    keys: int = 128
    num_stages: int = 2

    @property
    def name(self) -> str:
        return f"hopper_{self.problem.name}_{ROWS}x{self.keys}_s{self.num_stages}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        p = self.problem
        lines = f"C * {2 * p.num_kv_heads * PAGE_SIZE}", p.head_dim
        maps = {"kv": TensorMap("kv", DType.BF16, lines, (PAGE_SIZE, ATOM), LAYOUT)}
        pages = (maps.get(pointer.name, pointer) for pointer in p.page_inputs)
        return (*p.query_inputs, *pages, Pointer("out", DType.BF16))

    @property
    def dims(self) -> tuple[str, ...]:
        return "T", "S", "P", "C"

    @property
    def block_t(self) -> int:
        """Tokens of a block."""
        return ROWS // self.problem.group

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"T // {self.block_t} + S + 1", self.problem.num_kv_heads, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=True)

    @property
    def flops(self) -> str:
        return self.problem.flops

    @property
    def bytes(self) -> str:
        return self.problem.bytes

    def source(self) -> str:
        return render(
            "hopper_attention.py.j2",
            spec=self,
            p=self.problem,
            page_size=PAGE_SIZE,
            rows=ROWS // 2,
            atom=ATOM,
            registers=REGISTERS,
            log2_e=LOG2_E,
        )

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, ragged, by TMA"


def takes(problem: AttentionProblem, target: CudaTarget) -> bool:
    """Whether this kernel computes a problem."""
    return target.has_wgmma and problem.head_dim in HEAD_DIMS and not problem.window and problem.kv is DType.BF16
