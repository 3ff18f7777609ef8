"""Weights in bf16, in which most models are published."""

from __future__ import annotations

from collections.abc import Sequence

from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.types import DType
from warploom.passes.quantization.scheme import Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """A cast."""
    return Scheme(name, lambda weight: (as_dtype(weight, DType.BF16),), quantizes=False)


SCHEME = SchemeFamily("bf16", "weights in bf16", {}, make)
