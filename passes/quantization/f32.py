"""Weights in f32: exact, and twice as large as in bf16."""

from __future__ import annotations

from collections.abc import Sequence

from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.types import DType
from warploom.passes.quantization.scheme import Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """A cast."""
    return Scheme(name, lambda weight: (as_dtype(weight, DType.F32),), table="f32", quantizes=False)


SCHEME = SchemeFamily("f32", "weights in f32", {}, make)
