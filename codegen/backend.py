"""A target as `compile` drives it: what it fixes about the traced program, and how it turns groups into files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.target import Target
from warploom.ir.types import DType
from warploom.runtime.artifact import ArtifactWriter
from warploom.runtime.manifest import KVInfo, TargetInfo

Progress = Callable[[str, float], None]  # what is going on, and the fraction of it that is done


class Backend(Protocol):
    """One target."""

    @property
    def target(self) -> Target:
        """What the passes need to know of it."""

    @property
    def page_size(self) -> int:
        """Tokens of a KV page."""

    @property
    def k_layout(self) -> str:
        """Of the blocks of keys; see `ir/ops/paged_cache.py`."""

    @property
    def activation(self) -> DType:
        """What flows between groups."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of one step, prompt chunks and decodes together."""

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The weight formats that it has kernels for."""

    @property
    def kv_caches(self) -> tuple[str, ...]:
        """The kinds of KV cache that its kernels of attention read."""

    def generate(self, module: mlir.Module, kv: KVInfo, writer: ArtifactWriter, progress: Progress) -> TargetInfo:
        """Compile every entry of a fused module, whose cache is `kv`; add plan, code and sources to the artifact."""


def backend_of(target: str, deterministic: bool = False) -> Backend:
    """The backend of `cpu` or `cuda:<arch>`; only its own compiler is imported.

    Args:
        deterministic: a request's tokens must not depend on what else is in the batch; on the CPU they never do.

    Raises:
        CompileError: no such target.
    """
    kind, _, arch = target.partition(":")
    if target == "cpu":
        from warploom.codegen.cpu.backend import CpuBackend

        return CpuBackend()
    if kind == "cuda" and arch:
        from warploom.codegen.cuda.backend import CudaBackend

        return CudaBackend(arch, deterministic)
    raise CompileError(f"unknown target {target!r}", expected="cpu, or cuda:<arch> such as cuda:sm_90", found=target)
