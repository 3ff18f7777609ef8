"""Experts in MXFP4, as gpt-oss is published; all other weights in bf16."""

from __future__ import annotations

from collections.abc import Sequence

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.ops.mxfp4 import GROUP, quantize_mxfp4
from warploom.ir.types import DType, type_of
from warploom.passes.quantization.scheme import Matrices, Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """Round to nearest."""
    return Scheme(name, lambda weight: (as_dtype(weight, DType.BF16),), experts=_experts, only_experts=True)


def _experts(weight: mlir.Value) -> Matrices:
    columns = type_of(weight).shape[1]
    if not isinstance(columns, int) or columns % GROUP:
        raise CompileError(
            "these experts cannot be stored as mxfp4",
            expected=f"matrices whose columns come in groups of {GROUP}",
            found=str(type_of(weight)),
            fix="give them another scheme, such as bf16",
        )
    q, scale = quantize_mxfp4(weight)
    return q, scale


SCHEME = SchemeFamily(
    "mxfp4", "experts in four-bit floats, a power of two for 32 of them; all others in bf16", {}, make
)
