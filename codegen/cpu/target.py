"""The CPU as the passes and the frontend see it."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.templates import find_kernel, templates
from warploom.ir.function import Function
from warploom.ir.ops.linear import PANEL, linear
from warploom.ir.target import Target

PAGE_SIZE = 16  # tokens: one vector of scores
K_LAYOUT = "dim_major"  # lanes of a vector are keys


def layout(operation: mlir.Operation, feeds_swiglu: bool) -> str:
    """Panels; gate and up panels side by side where the kernel can apply SwiGLU to them."""
    n = linear.attrs_of(operation)["n"]
    return "panel_pair" if feeds_swiglu and n % (2 * PANEL) == 0 else "panel"


def refuses(group: Function) -> str | None:
    """Why no kernel family computes a group."""
    found = find_kernel(group, templates())
    return None if isinstance(found, Match) else found


CPU = Target(name="cpu", refuses=refuses, layout=layout)
