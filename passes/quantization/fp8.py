"""Weights in FP8 (E4M3) with one scale per output channel; activations too, with a scale per token found as they come.

`quantize_activations` adds the second half. Ranges and rounding: OCP 8-bit floating point specification, E4M3.

What comes after the last attention, the head and the rest of the last layer, is int8 with activations as they are: as
small, with an eighth of the error. Errors made there reach the logits undiminished: of SmolLM2's cost in FP8 the head
made more than half, and the last MLP a sixth of the rest. Others leave the head in bf16 (llm-compressor's FP8_DYNAMIC).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from warploom.ir.ops.quantize import quantize
from warploom.passes.quantization.scheme import Scheme, SchemeFamily

OPTIONS = {"all": "what comes after the last attention too, the head among it, which is int8 otherwise"}


def make(name: str, options: Sequence[str]) -> Scheme:
    """Symmetric, per row."""
    numbers = partial(quantize, dtype="f8e4m3", group=0, scale_dtype="f32")
    return Scheme(name, numbers, last="" if "all" in options else "int8")


SCHEME = SchemeFamily("fp8", "weights and activations in FP8 (E4M3), the last ones in int8", OPTIONS, make)
