"""What paged attention computes, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernel import Pointer
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.names import identifier
from warploom.ir.types import DType

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class AttentionProblem:
    """Causal attention of bf16 q [T, num_heads, head_dim] over pages of one layer.

    Attributes:
        scale: of scores, positive.
        window: keys that a token sees; 0: all.
        softcap: bound of scores, smoothly; 0: none.
        alibi: factor of what scores lose with the distance of a key (see `ir/ops/alibi.py`); 0: nothing.
        sinks: dtype of one more score per head, if there is one.
        kv: dtype of the pages.
        scaled: numbers of the cache stand on scales, of the keys and the values of each head.
        projection: where q, k and v of this step are before their rotation; None: q is rotated, and all that is
            attended is in the cache.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: DType | None = None
    kv: DType = DType.BF16
    projection: Projection | None = None
    alibi: float = 0.0
    scaled: bool = False

    @property
    def name(self) -> str:
        """Readable and unique: `attention_32x8x128`."""
        parts = [f"attention_{self.num_heads}x{self.num_kv_heads}x{self.head_dim}"]
        if self.scale != self.head_dim**-0.5:
            parts.append(f"scale_{self.scale.hex()}")
        if self.window:
            parts.append(f"window_{self.window}")
        if self.softcap:
            parts.append(f"cap_{self.softcap:g}")
        if self.alibi:
            parts.append(f"alibi_{self.alibi.hex()}")
        if self.sinks:
            parts.append(f"sinks_{self.sinks}")
        if self.kv is not DType.BF16:
            parts.append(f"kv_{self.kv}")
        if self.scaled:
            parts.append("scaled")
        if self.projection:
            parts.append(str(self.projection))
        return identifier("_".join(parts))

    @property
    def group(self) -> int:
        """Query heads of one kv head."""
        return self.num_heads // self.num_kv_heads

    @property
    def block_d(self) -> int:
        """A head, padded to a power of two."""
        return padded(self.head_dim)

    @property
    def page_stride(self) -> int:
        """Elements from one page to the next: keys and values of all heads, with their exponents if they have some."""
        return 2 * self.num_kv_heads * PAGE_SIZE * (self.head_dim + (1 if self.kv is DType.I8 else 0))

    @property
    def score_scale(self) -> float:
        """Of scores (capped ones, if they are) whose exponentials are taken to base 2."""
        return LOG2_E if self.softcap else self.scale * LOG2_E

    @property
    def first_heads(self) -> int:
        """Query heads whose slopes are one series: all, or the power of two below."""
        return 1 << (self.num_heads.bit_length() - 1)

    @property
    def query_inputs(self) -> tuple[Pointer, ...]:
        """q, and what rotates it."""
        angles = ("cos", "sin") if self.projection else ()
        return (Pointer("q", DType.BF16), *(Pointer(name, DType.F32) for name in angles))

    @property
    def page_inputs(self) -> tuple[Pointer, ...]:
        """The cache at its layer, and where its sequences are."""
        indices = ("page_table", "query_start", "context_lens")
        sinks = () if self.sinks is None else (Pointer("sinks", self.sinks),)
        scales = (Pointer("scales", DType.F32),) if self.scaled else ()
        return (Pointer("kv", self.kv), *(Pointer(name, DType.I32) for name in indices), *sinks, *scales)

    @property
    def flops(self) -> str:
        """Upper bound: the last token of a sequence attends its full page table, others what is before them."""
        each = 2 * self.num_heads * self.head_dim  # and key, of scores or of sums
        return f"{each} * T * ({2 * PAGE_SIZE} * P - (T - 1) // S)"

    @property
    def bytes(self) -> str:
        """Upper bound: full page tables once, q and the result once."""
        return f"{self.kv.numpy.itemsize * self.page_stride} * S * P + {4 * self.num_heads * self.head_dim} * T"
