"""What passes know of a target: codegen supplies the instance, passes never import codegen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.function import Function
from warploom.ir.types import DType


@dataclass(frozen=True)
class Numbers:
    """A format of quantized activations: dtype, and how many neighbours share a scale (0: all of a row)."""

    dtype: DType
    group: int


@dataclass(frozen=True)
class Target:
    """A device family as the passes see it.

    Attributes:
        name: such as `cpu`.
        refuses: why no kernel of the target computes a group (legality: a reason or nothing).
        layout: the weight layout that the target's kernel wants for a `linear` or `quantized_linear`,
            given whether the op feeds a SwiGLU whose halves it holds.
        activations: what the kernel of a `quantized_linear` of integer weights wants to multiply them with, or None:
            activations as they are.
        row_scales: why no kernel multiplies each row of a `linear`'s result by a number, or None; see `defer_norms`.
        scale_each_row: kernels of products read the scales of activations row by row, also where all rows share one.
        norms_rows: kernels of a `linear` norm the rows that they read, in one launch.
        scaled_heads: kernels of a `head_linear` read weights of int8 with a scale for every row.
    """

    name: str
    refuses: Callable[[Function], str | None]
    layout: Callable[[mlir.Operation, bool], str]
    activations: Callable[[mlir.Operation], Numbers | None] = lambda operation: None
    row_scales: Callable[[mlir.Operation], str | None] = lambda operation: "no kernel scales rows after a product"
    norms_rows: bool = False
    scale_each_row: bool = False
    scaled_heads: bool = False
