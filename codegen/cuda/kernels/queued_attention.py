"""Attention of decodes of many sequences on Hopper: blocks that stay and draw what they attend from a queue; in Gluon.

What a block computes is `decode_attention`'s without splits: all keys of one token and kv head, of which those of this
step come from where the projection left them. A block that ends leaves its multiprocessor without loads on their way
until the next one has found its pages. Here there are as many blocks as are held at once. Each draws its next token and
kv head while it attends one, and asks for the first pages of the next when it has asked for the last of its own. The
first pages of all come before the previous kernel is waited for, which `decode_attention` explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Options, Pointer, Temp
from warploom.codegen.cuda.kernels.attended_work import OfPages
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType, tensor

HEAD_DIM = 128  # with which it was timed
MOST_ROWS = 16  # query heads of a kv head: rows of a product


@dataclass(frozen=True, slots=True)
class QueueTile:
    """How the work is cut.

    Attributes:
        blocks: that the GPU holds at once.
        num_stages: pages that a block has on their way.
        keys: of a page that are attended at once.
    """

    blocks: int = 264
    num_stages: int = 3
    keys: int = 32
    num_warps: int = 1


@dataclass(frozen=True, slots=True)
class QueuedAttentionSpec(OfPages):
    """out [T, num_heads, head_dim], for T up to S."""

    problem: AttentionProblem
    tile: QueueTile = QueueTile()

    @property
    def name(self) -> str:
        t = self.tile
        return f"queued_{self.problem.name}_b{t.blocks}_k{t.keys}_w{t.num_warps}_s{t.num_stages}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        q, *angles = self.problem.query_inputs
        fresh = (Pointer("k", DType.BF16), Pointer("v", DType.BF16))
        ends = (Pointer("drawn", DType.I32), Pointer("out", DType.BF16))
        return (q, *fresh, *angles, Pointer("slots", DType.I32), *self.problem.page_inputs, *ends)

    @property
    def temps(self) -> tuple[Temp]:
        """drawn: how many were drawn from the queue, beyond the first of each block."""
        return (Temp(tensor((1,), DType.I32), zeroed=True),)

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"min({self.tile.blocks}, {self.problem.num_kv_heads} * T)", 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=self.tile.num_warps, pdl=True)

    def source(self) -> str:
        return render("queued_attention.py.j2", spec=self, p=self.problem, page_size=PAGE_SIZE)

    def __str__(self) -> str:
        p = self.problem
        return f"attention of {p.num_heads} heads of {p.head_dim} over {p.num_kv_heads} paged kv heads, from a queue"


def takes(problem: AttentionProblem, target: CudaTarget) -> bool:
    """Whether this kernel computes a problem."""
    p = problem
    is_plain = not (p.window or p.softcap or p.alibi or p.sinks or p.scaled) and p.kv is DType.BF16
    fits = p.head_dim == HEAD_DIM and p.group <= MOST_ROWS
    return target.has_wgmma and p.projection is not None and is_plain and fits
