"""Attention of ragged chunks of prompts on Hopper: FlashAttention-3 (Shah et al. 2024) over pages, in Gluon.

A block takes 128 rows, tokens of one sequence times the query heads of one kv head, as `ragged_attention` does, whose
numbering of blocks it shares. One warp brings pages by TMA; two groups of four warps compute 64 rows each, and hide
the exponentials of one block of keys behind the matrix products of another.

Pages of 8-bit floats are brought by a group of four warps, which also makes them f16, exactly; q and the weights of the
softmax are f16 then. That takes longer than the products, so `rope_kv_write` leaves what it writes to the cache as f16
too: blocks of keys of which none is older than the step come from there, as most of a prompt's do. Pages of i8 are left
to `ragged_attention`: with their exponents they are no whole number of rows.

The block's first four warps only start the others. Triton tells those what to do through shared memory, in the order
that `barrier.sync 1` of the whole block makes (in the PTX: before the others read, after they have read, and when they
are done). compute-sanitizer's racecheck loses that order if the first warps also meet at a barrier of their own
(`bar.sync 0, 128`): it reports hazards then even of kernels of three lines. Sums across warps and arrivals at mbarriers
have such barriers, so here each of the first warps finds its sequence alone, and the warps that bring pages make the
mbarriers and say when they are `ready`. On an H100 it takes as long as with the first warps as one of the groups.

A row's float operations depend on its own position alone: blocks of keys are at absolute positions, and one that is
masked for a row multiplies its state by 1 and adds 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Operand, Options, Pointer, Temp, TensorMap
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import LOG2_E, AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

ROWS = 128
HEAD_DIMS = 64, 128  # of which TMA brings 128 bytes of a page at once
ATOM = 64  # columns of bf16 that a swizzled line of 128 bytes holds


@dataclass(frozen=True, slots=True)
class HopperAttentionSpec(OfPages):
    """out [T, num_heads, head_dim], for any T and S; kv has C pages."""

    problem: AttentionProblem
    keys: int = 128
    num_stages: int = 2

    @property
    def name(self) -> str:
        return f"hopper_{self.problem.name}_{ROWS}x{self.keys}_s{self.num_stages}"

    @property
    def fresh(self) -> bool:
        """Whether keys and values of this step's tokens come as f16 [T, 2, num_kv_heads, head_dim].

        Like decodes that take k and v from registers, this counts on slots that are those of the tokens' positions.
        """
        return self.problem.kv is DType.F8 and self.problem.projection is not None

    @property
    def scratch(self) -> dict[str, Temp]:
        """The operands that `rope_kv_write` leaves for this kernel."""
        p = self.problem
        shape = "T", 2, p.num_kv_heads, p.head_dim
        return {"fresh": Temp(tensor(shape, DType.F16))} if self.fresh else {}

    @property
    def operands(self) -> tuple[Operand, ...]:
        p = self.problem
        lines = f"C * {2 * p.num_kv_heads * PAGE_SIZE}", p.head_dim
        swizzle = min(128, p.head_dim * p.kv.numpy.itemsize)
        bits = 8 * p.kv.numpy.itemsize
        layout = f"NVMMASharedLayout(swizzle_byte_width={swizzle}, element_bitwidth={bits}, rank=2)"
        block = PAGE_SIZE, swizzle // p.kv.numpy.itemsize
        maps = {"kv": TensorMap("kv", p.kv, lines, block, layout)}
        pages = (maps.get(pointer.name, pointer) for pointer in p.page_inputs)
        wide = "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)"
        rows = "T", 2 * p.num_kv_heads * p.head_dim
        fresh = (TensorMap("fresh", DType.F16, rows, (self.keys, ATOM), wide),) if self.fresh else ()
        return (*p.query_inputs, *pages, *fresh, Pointer("out", DType.BF16))

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

    def source(self) -> str:
        return render(
            "hopper_attention.py.j2",
            spec=self,
            p=self.problem,
            page_size=PAGE_SIZE,
            rows=ROWS // 2,
            atom=ATOM,
            log2_e=LOG2_E,
        )

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, ragged, by TMA"


def takes(problem: AttentionProblem, target: CudaTarget) -> bool:
    """Whether this kernel computes a problem."""
    is_plain = not problem.window and not problem.alibi and problem.kv is not DType.I8
    return target.has_wgmma and problem.head_dim in HEAD_DIMS and is_plain
