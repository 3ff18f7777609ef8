"""Weights in FP8 (E4M3) with one scale per output channel; activations too, with a scale per token found as they come.

`quantize_activations` adds the second half. Ranges and rounding: OCP 8-bit floating point specification, E4M3.
"""

from __future__ import annotations

from collections.abc import Sequence

from warploom.ir.ops.quantize import quantize
from warploom.passes.quantization.scheme import Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """Symmetric, per row."""
    return Scheme(name, lambda weight: quantize(weight, dtype="f8e4m3", group=0, scale_dtype="f32"))


SCHEME = SchemeFamily("fp8", "weights and activations in FP8 (E4M3)", {}, make)
