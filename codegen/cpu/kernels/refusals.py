"""What several families of CPU kernels refuse, each in one set of words."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.dims import DimLike
from warploom.ir.types import DType, type_of


def refuse_activations(*values: mlir.Value) -> str | None:
    """Why the kernels cannot read or write values, or None: they compute on f32 only."""
    found = [str(type_of(value)) for value in values if type_of(value).dtype is not DType.F32]
    return f"activations must be f32; here {', '.join(found)}" if found else None


def refuse_cache(kv: mlir.Value, head_dim: DimLike, page_size: int, k_layout: str) -> str | None:
    """Why the kernels cannot use a cache, or None."""
    if page_size != 16 or k_layout != "dim_major":
        return f"pages must be 16 tokens, dim_major; here {page_size}, {k_layout}"
    if not isinstance(head_dim, int) or head_dim % 16:
        return f"head_dim must be a multiple of 16; here {head_dim}"
    heads = type_of(kv).shape[3]
    return None if isinstance(heads, int) else f"the number of kv heads must be static; here {heads}"


def refuse_rows(latent: DimLike, rotated: DimLike, page_size: int) -> str | None:
    """Why the kernels cannot use a cache of latent rows, or None."""
    if page_size != 16 or not isinstance(latent, int) or not isinstance(rotated, int) or latent % 16 or rotated % 16:
        return f"rows are multiples of 16, latent and rotated, in pages of 16; here {latent}, {rotated}, {page_size}"
    return None
