"""Targets without kernels, so that passes can be tested without code generation."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function
from warploom.ir.ops.linear import linear
from warploom.ir.target import Numbers, Target
from warploom.ir.types import DType


def _panels(operation: mlir.Operation, feeds_swiglu: bool) -> str:
    """What the CPU asks for: panels, paired where gate and up are halves of whole panels."""
    return "panel_pair" if feeds_swiglu and linear.attrs_of(operation)["n"] % 64 == 0 else "panel"


def _refuses_large(group: Function) -> str | None:
    return f"{len(group.ops)} ops are too many" if len(group.ops) > 2 else None


ROUNDING = Target(  # multiplies numbers of eight bits, with a scale for every sixteen activations
    "rounding",
    refuses=lambda _group: None,
    layout=lambda _operation, _pair: "row",
    activations=lambda _operation: Numbers(DType.I8, 16),
)
EAGER = Target(  # takes every group
    "eager", refuses=lambda _group: None, layout=_panels, row_scales=lambda _operation: None
)
MODEST = Target("modest", refuses=_refuses_large, layout=lambda _operation, _pair: "panel")  # takes two ops at most
UNABLE = Target("unable", refuses=lambda _group: "no kernels at all", layout=lambda _operation, _pair: "row")
