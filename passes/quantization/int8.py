"""Weights in int8 with one scale per output channel.

On the CPU activations are quantized too, in groups of 32 numbers (see `quantize_activations`), as llama.cpp's Q8_0.
"""

from __future__ import annotations

from collections.abc import Sequence

from warploom.ir.ops.quantize import quantize
from warploom.passes.quantization.scheme import Scheme, SchemeFamily


def make(name: str, options: Sequence[str]) -> Scheme:
    """Symmetric, per row."""
    return Scheme(name, lambda weight: quantize(weight, dtype="i8", group=0, scale_dtype="f32"))


SCHEME = SchemeFamily("int8", "weights in int8, one scale per output channel", {}, make)
