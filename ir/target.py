"""What passes know of a target: codegen supplies the instance, passes never import codegen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.function import Function


@dataclass(frozen=True)
class Target:
    """A device family as the passes see it.

    Attributes:
        name: such as `cpu`.
        refuses: why no kernel of the target computes a group (legality: a reason or nothing).
        layout: the weight layout that the target's kernel wants for a `linear` or `quantized_linear`,
            given whether the op feeds a SwiGLU whose halves it holds.
    """

    name: str
    refuses: Callable[[Function], str | None]
    layout: Callable[[mlir.Operation, bool], str]
