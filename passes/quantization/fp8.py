"""Weights in FP8 (E4M3) with one scale per output channel; activations too, with a scale per token found as they come.

`quantize_activations` adds the second half. Ranges and rounding: OCP 8-bit floating point specification, E4M3.

The head is int8 with activations as they are: as small, and it costs SmolLM2 nothing that can be measured, where an FP8
head costs 1.5 % of its surprise. Others leave the head in bf16 (llm-compressor's FP8_DYNAMIC).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from warploom.ir.ops.quantize import quantize
from warploom.passes.quantization.scheme import Scheme, SchemeFamily

OPTIONS = {"head": "the head too, which is int8 otherwise"}


def make(name: str, options: Sequence[str]) -> Scheme:
    """Symmetric, per row."""
    numbers = partial(quantize, dtype="f8e4m3", group=0, scale_dtype="f32")
    return Scheme(name, numbers, head="" if "head" in options else "int8")


SCHEME = SchemeFamily("fp8", "weights and activations in FP8 (E4M3), the head in int8", OPTIONS, make)
