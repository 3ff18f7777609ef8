"""The CPU as the passes and the frontend see it."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.quads import GROUP
from warploom.codegen.cpu.templates import find_kernel, templates
from warploom.ir.function import Function
from warploom.ir.layouts import PANEL
from warploom.ir.ops.linear import linear
from warploom.ir.ops.quantized_linear import scaled_linear
from warploom.ir.patterns import weight_operands
from warploom.ir.rewrite import is_op
from warploom.ir.target import Numbers, Target
from warploom.ir.types import DType, type_of

PAGE_SIZE = 16  # tokens: one vector of scores
K_LAYOUT = "dim_major"  # lanes of a vector are keys


def layout(operation: mlir.Operation, feeds_swiglu: bool) -> str:
    """Panels, of quads where a kernel reads these; gate and up side by side where it can apply SwiGLU to them."""
    n, weight = linear.attrs_of(operation)["n"], type_of(weight_operands(operation)[0])
    if weight.dtype is DType.I4:
        k = weight.shape[1]
        kind = "quad4" if isinstance(k, int) and k % 8 == 0 else "row4"
    else:
        kind = "quad" if is_op(operation, scaled_linear) and weight.dtype is DType.I8 else "panel"
    return f"{kind}_pair" if feeds_swiglu and n % (2 * PANEL) == 0 and kind != "row4" else kind


def activations(operation: mlir.Operation) -> Numbers | None:
    """int8 with a scale for every 32 numbers, where the columns divide so."""
    _, scale, *_ = weight_operands(operation)
    k, groups = type_of(operation.operands[0]).shape[-1], type_of(scale).shape[1]
    assert isinstance(groups, int)
    fits = isinstance(k, int) and k % (GROUP * groups) == 0 and type_of(scale).dtype is not DType.BF16
    return Numbers(DType.I8, GROUP) if fits else None


def refuses(group: Function) -> str | None:
    """Why no kernel family computes a group."""
    found = find_kernel(group, templates())
    return None if isinstance(found, Match) else found


CPU = Target(name="cpu", refuses=refuses, layout=layout, activations=activations, norms_rows=True, scaled_heads=True)
