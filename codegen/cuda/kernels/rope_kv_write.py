"""Rotary embedding of q and k, with k and v written to their slots of the KV pages.

A block takes a few heads of one token.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.kernels.projection import Projection, projected
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE
from warploom.codegen.groups import input_slot, kv_slot, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.scaled_cache import WRITES
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, type_of

KIND = "rope_kv_write"
HEADS = 4  # of a block


@dataclass(frozen=True, slots=True)
class RopeKvWriteSpec:
    """k and v [T, num_kv_heads, head_dim] into pages of dtype kv, k rotated; q [T, num_heads, head_dim] rotated.

    Products are rounded once, to x, the dtype of q, k and v. Without q num_heads is 0, and only the cache is written.
    `scaled`: what is written stands on scales [2, num_kv_heads], of the keys and the values of each head.
    `fresh`: the numbers of a cache of 8-bit floats also go to fresh [T, 2, num_kv_heads, head_dim] as f16, which holds
    them exactly, for attention that would widen them for every block of queries.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    x: DType
    kv: DType
    projection: Projection
    pdl: bool
    scaled: bool = False
    fresh: bool = False

    @property
    def name(self) -> str:
        shape = f"{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"
        kind = f"{'_scaled' if self.scaled else ''}{'_fresh' if self.fresh else ''}"
        return f"rope_kv_write_{self.x}_{self.kv}{kind}_{shape}_{self.projection}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        q, out = ([Pointer(name, self.x)] if self.num_heads else [] for name in ("q", "out"))
        names = ("cos", "sin") if self.projection.half else ()
        angles = [Pointer(name, DType.F32) for name in names]
        keys = Pointer("k", self.x), Pointer("v", self.x)
        scales = (Pointer("scales", DType.F32),) if self.scaled else ()
        fresh = (Pointer("fresh", DType.F16),) if self.fresh else ()
        return (*q, *keys, *angles, Pointer("slots", DType.I32), *scales, Pointer("kv", self.kv), *fresh, *out)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def q_blocks(self) -> int:
        """Blocks of heads of q; blocks of heads of k and v follow."""
        return -(-self.num_heads // HEADS)

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", self.q_blocks + -(-self.num_kv_heads // HEADS), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=1 if self.head_dim <= 64 else 2, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{6 * (self.num_heads + self.num_kv_heads) * self.projection.half} * T"

    @property
    def bytes(self) -> str:
        read, written = self.x.numpy.itemsize, self.kv.numpy.itemsize + (2 if self.fresh else 0)
        heads = 2 * read * self.num_heads + 2 * (read + written) * self.num_kv_heads
        return f"{heads * self.head_dim + 8 * self.projection.half} * T"

    def source(self) -> str:
        return render(
            "rope_kv_write.py.j2",
            spec=self,
            p=self.projection,
            heads=HEADS,
            block_d=next_power_of_2(self.head_dim),
            page_size=PAGE_SIZE,
        )

    def __str__(self) -> str:
        heads = f"{self.num_heads} q and {self.num_kv_heads} k heads of {self.head_dim}"
        return f"rotary embedding of {heads}, k and v to their pages"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a `kv_write`, with the rotation of k and of one q by the same angles, if any; or why not."""
    write = next((op for op in group.ops if is_op(op, *WRITES)), None)
    if write is None:
        return "there is no kv_write"
    kv, k, v, slots, *scales = write.operands
    attrs = kv_write.attrs_of(write)
    queries = [value for value in group.results.values() if value != write.results[0]]
    if attrs["page_size"] != PAGE_SIZE or attrs["k_layout"] != K_LAYOUT:
        return f"pages must be {PAGE_SIZE} tokens, {K_LAYOUT}; here {attrs['page_size']}, {attrs['k_layout']}"
    if len({type_of(value).dtype for value in (k, v, *queries)}) > 1:
        return "q, k and v differ in dtype"
    if len(queries) > 1:
        return "of the group's results only the cache and one q can be written"
    found = projected(queries[0] if queries else None, k, v)
    if isinstance(found, str):
        return found
    if queries and not found.angles:
        return "q is not rotated in the group"
    tokens, num_kv_heads, head_dim = type_of(k).shape
    num_heads = static(type_of(queries[0]).shape[1]) if queries else 0
    dtypes = type_of(k).dtype, type_of(kv).dtype
    shape = num_heads, static(num_kv_heads), static(head_dim)
    spec = RopeKvWriteSpec(*shape, *dtypes, found.projection, target.has_tma, bool(scales))
    operands = (
        *(input_slot(group, value) for value in (*found.matrices, *found.angles, slots, *scales)),
        kv_slot(group, kv, attrs["layer"]),
        *(result_slot(group, value) for value in queries),
    )
    return one_launch(spec, operands, {"T": str(tokens)})
