"""What paged attention computes, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Pointer
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.ir.types import DType

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class AttentionProblem:
    """Causal attention of q [T, num_heads, head_dim] over bf16 pages of one layer, all bf16; window 0 is none."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0

    @property
    def name(self) -> str:
        """Readable and unique: `attention_32x8x128`."""
        scale = "" if self.scale == self.head_dim**-0.5 else f"_scale_{self.scale.hex()}"
        window = f"_window_{self.window}" if self.window else ""
        shape = f"attention_{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"
        return shape + (scale + window).replace(".", "p").replace("+", "").replace("-", "m")

    @property
    def group(self) -> int:
        """Query heads of one kv head."""
        return self.num_heads // self.num_kv_heads

    @property
    def block_d(self) -> int:
        """A head, padded to a power of two."""
        return max(16, 1 << (self.head_dim - 1).bit_length())

    @property
    def page_stride(self) -> int:
        """Elements from one page to the next: keys and values of all heads."""
        return 2 * self.num_kv_heads * PAGE_SIZE * self.head_dim

    @property
    def score_scale(self) -> float:
        """Of scores whose exponentials are taken to base 2."""
        return self.scale * LOG2_E

    @property
    def inputs(self) -> tuple[Pointer, ...]:
        """What every kernel reads, kv at its layer."""
        indices = ("page_table", "query_start", "context_lens")
        floats = Pointer("q", DType.BF16), Pointer("kv", DType.BF16)
        return (*floats, *(Pointer(name, DType.I32) for name in indices))

    @property
    def flops(self) -> str:
        """Upper bound: each token attends its full page table."""
        return f"{4 * PAGE_SIZE * self.num_heads * self.head_dim} * T * P"

    @property
    def bytes(self) -> str:
        """Upper bound: full page tables once, q and the result once."""
        return f"{2 * self.page_stride} * S * P + {4 * self.num_heads * self.head_dim} * T"
