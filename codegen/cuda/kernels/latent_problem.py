"""What latent attention computes, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.cuda.kernel import Pointer
from warploom.codegen.cuda.kernels.latent_format import LatentFormat
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.groups import static
from warploom.codegen.names import identifier
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.types import DType, type_of

WIDEST = 1024  # latent: sums of 16 rows are in registers
ROWS = (DType.BF16, DType.F8, DType.I8)


@dataclass(frozen=True, slots=True)
class LatentProblem:
    """Causal attention of bf16 queries [T, num_heads, latent + rotated] over rows of one layer, which are of `kv`."""

    num_heads: int
    latent: int
    rotated: int
    scale: float
    kv: DType = DType.BF16

    @property
    def name(self) -> str:
        """Readable and unique."""
        shape = f"{self.num_heads}x{self.latent}r{self.rotated}{self.format.suffix}"
        name = f"latent_attention_{shape}_scale_{self.scale.hex()}"
        return identifier(name)

    @property
    def format(self) -> LatentFormat:
        """Of rows in the cache."""
        return LatentFormat(self.latent, self.rotated, self.kv)

    @property
    def row(self) -> int:
        """Numbers of a token and of a query."""
        return self.latent + self.rotated

    @property
    def queries(self) -> tuple[Pointer, ...]:
        """Both parts."""
        return Pointer("q_latent", DType.BF16), Pointer("q_rope", DType.BF16)

    @property
    def batch(self) -> tuple[Pointer, ...]:
        """Where sequences and their tokens are."""
        return tuple(Pointer(name, DType.I32) for name in ("page_table", "query_start", "context_lens"))

    @property
    def flops(self) -> str:
        """Upper bound: each token attends its full page table."""
        return f"{2 * PAGE_SIZE * self.num_heads * (self.row + self.latent)} * T * P"

    @property
    def bytes(self) -> str:
        """Upper bound: full page tables once, queries and the result once."""
        return f"{PAGE_SIZE * self.format.bytes_of_row} * S * P + {2 * self.num_heads * (self.row + self.latent)} * T"


def problem_of(operation: mlir.Operation) -> LatentProblem | str:
    """The problem of a `latent_attention`, or why kernels do not compute it."""
    q_latent, q_rope, kv, *_ = operation.operands
    attrs = latent_attention.attrs_of(operation)
    _, heads, latent = type_of(q_latent).shape
    if {type_of(value).dtype for value in (q_latent, q_rope)} != {DType.BF16} or attrs["page_size"] != PAGE_SIZE:
        return f"queries must be bf16, pages {PAGE_SIZE} rows; here {type_of(q_latent)}, {attrs['page_size']}"
    rotated, rows = static(type_of(q_rope).shape[2]), type_of(kv).dtype
    if rows not in ROWS:
        return f"rows must be {', '.join(ROWS)}; here {rows}"
    problem = LatentProblem(static(heads), static(latent), rotated, attrs["scale"], rows)
    if problem.scale <= 0 or problem.latent % 8 or problem.rotated % 8 or problem.latent > WIDEST:
        return f"latents of {problem.latent} + {problem.rotated} numbers with scale {problem.scale} have no kernel"
    return problem
