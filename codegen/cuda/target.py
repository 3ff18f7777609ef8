"""A GPU as the passes and the frontend see it."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match
from warploom.codegen.cuda.templates import find_kernels, templates
from warploom.ir.function import Function
from warploom.ir.target import Target

PAGE_SIZE = 64  # tokens of a KV page
K_LAYOUT = "token_major"  # a K block is [page_size, head_dim], as V


def cuda(target: CudaTarget) -> Target:
    """What the passes need to know of `target`; weights stay as checkpoints store them."""

    def refuses(group: Function) -> str | None:
        found = find_kernels(group, target, templates())
        return None if isinstance(found, Match) else found

    def layout(operation: mlir.Operation, feeds_swiglu: bool) -> str:
        return "row"

    return Target(name=f"cuda:{target.arch}", refuses=refuses, layout=layout, norms_rows=True, scale_each_row=True)
