"""Weights of four bits in groups along the input channels, with scales (and offsets) of f16."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from warploom.errors import CompileError
from warploom.ir.op import Op
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import quantize, quantize_affine
from warploom.passes.quantization.scheme import Scheme, SchemeFamily, whole_groups

DEFAULT_GROUP = 32
OPTIONS = {
    "g32": "groups of 32 input channels (the default)",
    "g64": "groups of 64",
    "g128": "groups of 128",
    "zeros": "asymmetric: each group has an offset too",
    "awq": "activation-aware: channels that meet large activations keep more precision; needs a calibration text",
}


def make(name: str, options: Sequence[str]) -> Scheme:
    """Round to nearest."""
    groups = [int(option[1:]) for option in options if option[0] == "g"]
    if len(groups) > 1:
        raise CompileError("a scheme has one size of groups", found=name)
    group = groups[0] if groups else DEFAULT_GROUP
    op: Op = quantize_affine if "zeros" in options else quantize
    numbers = partial(op, dtype="i4", group=group, scale_dtype="f16")
    evaluated = partial(op.evaluate, dtype="i4", group=group, scale_dtype="f16")
    return Scheme(
        name,
        numbers,
        refuses=whole_groups(group),
        calibration=(lambda weight: dequantize.evaluate(*evaluated(weight))) if "awq" in options else None,
    )


SCHEME = SchemeFamily("int4", "weights of four bits in groups of input channels", OPTIONS, make)
