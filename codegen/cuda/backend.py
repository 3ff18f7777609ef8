"""The CUDA targets of `compile`: one architecture each."""

from __future__ import annotations

from importlib.util import find_spec

import mlir.ir as mlir
import msgspec

from warploom.codegen.backend import Progress
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.driver import compile_entries
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE, cuda
from warploom.errors import CompileError
from warploom.ir.types import DType
from warploom.runtime.artifact import ArtifactWriter
from warploom.runtime.manifest import CudaTargetInfo, KVInfo, TargetInfo

# Triton 3.6 assembles with ptxas 12.8: its cubins load on every CUDA 12 driver, its PTX 8.7 needs the one of 12.8.
MIN_DRIVER, MIN_PTX_DRIVER = 12000, 12080


class CudaBackend:
    """Cubins, PTX and Triton sources for one architecture; see `codegen.backend.Backend`."""

    page_size = PAGE_SIZE
    k_layout = K_LAYOUT
    activation = DType.BF16
    max_tokens = 8192
    quantizations = ("bf16", "int8", "int4", "fp8", "mxfp4", "checkpoint")

    def __init__(self, arch: str, deterministic: bool = False) -> None:
        """See `CudaTarget`; an unknown architecture, or a machine without Triton, is a CompileError."""
        if find_spec("triton") is None:
            raise CompileError(
                "Triton, which compiles CUDA kernels, is not installed",
                expected="the package triton 3.6",
                fix="pip install 'warploom[compile-cuda]'",
            )
        self._cuda = CudaTarget(arch, deterministic)
        self.target = cuda(self._cuda)
        self.kv_caches = ("auto", "fp8", "int8") if self._cuda.has_f8 else ("auto", "int8")

    def generate(self, module: mlir.Module, kv: KVInfo, writer: ArtifactWriter, progress: Progress) -> TargetInfo:
        """Kernels in every form, and their plan."""
        product = compile_entries(module, self._cuda, progress)
        for path, data in product.files.items():
            writer.add_bytes(path, data)
        plan = f"plan.cuda.{self._cuda.arch}.json"
        writer.add_bytes(plan, msgspec.json.format(msgspec.json.encode(product.plan)))
        info = CudaTargetInfo(
            arch=self._cuda.arch,
            portable=self._cuda.capability < 90,  # from Hopper on Triton uses what only that architecture has
            min_driver=MIN_DRIVER,
            min_ptx_driver=MIN_PTX_DRIVER,
            deterministic=self._cuda.deterministic,
        )
        return TargetInfo(plan=plan, kv=kv, cuda=info)
