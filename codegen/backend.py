"""A target as `compile` drives it: what it fixes about the traced program, and how it turns groups into files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.target import Target
from warploom.ir.types import DType
from warploom.runtime.artifact import ArtifactWriter
from warploom.runtime.manifest import TargetInfo

Progress = Callable[[str, float], None]  # what is going on, and the fraction of it that is done


class Backend(Protocol):
    """One target.

    Attributes:
        target: what the passes need to know of it.
        page_size, k_layout: of the KV cache; see `ir/ops/attention.py`.
        activation: dtype of what flows between groups.
        max_tokens: most tokens of one step, prompt chunks and decodes together.
        quantizations: the weight formats that it has kernels for.
    """

    target: Target
    page_size: int
    k_layout: str
    activation: DType
    max_tokens: int
    quantizations: tuple[str, ...]

    def generate(self, module: mlir.Module, writer: ArtifactWriter, progress: Progress) -> TargetInfo:
        """Compile every entry of a fused module and add plan, code and sources to the artifact."""


def backend_of(target: str) -> Backend:
    """The backend of `cpu` or `cuda:<arch>`; only its own compiler is imported.

    Raises:
        CompileError: no such target.
    """
    kind, _, arch = target.partition(":")
    if target == "cpu":
        from warploom.codegen.cpu.backend import CpuBackend

        return CpuBackend()
    if kind == "cuda" and arch:
        from warploom.codegen.cuda.backend import CudaBackend

        return CudaBackend(arch)
    raise CompileError(f"unknown target {target!r}", expected="cpu, or cuda:<arch> such as cuda:sm_90", found=target)
