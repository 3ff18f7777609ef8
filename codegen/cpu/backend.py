"""The CPU target of `compile`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlir.ir as mlir
import msgspec

from warploom.codegen.backend import Progress
from warploom.codegen.cpu.driver import compile_entries
from warploom.codegen.cpu.isa import LEVELS
from warploom.codegen.cpu.target import CPU, K_LAYOUT, PAGE_SIZE
from warploom.ir.types import DType
from warploom.runtime.artifact import ArtifactWriter
from warploom.runtime.manifest import KVInfo, TargetInfo, Variant

PLAN = "plan.cpu.json"


class CpuBackend:
    """Shared objects for every x86-64 level; see `codegen.backend.Backend`."""

    target = CPU
    page_size = PAGE_SIZE
    k_layout = K_LAYOUT
    activation = DType.F32
    max_tokens = 2048
    quantizations = ("f32", "bf16", "int8", "int4", "fp8", "mxfp4", "checkpoint")
    kv_caches = ("auto", "fp8", "int8")

    def generate(self, module: mlir.Module, kv: KVInfo, writer: ArtifactWriter, progress: Progress) -> TargetInfo:
        """Native code, its plan and its readable sources."""
        with tempfile.TemporaryDirectory() as scratch:
            product = compile_entries(module, LEVELS, Path(scratch), progress)
            for isa, library in product.libraries.items():
                writer.add_file(f"kernels/cpu/{isa.name}.so", library)
        for path, source in product.sources.items():
            writer.add_text(path, source)
        writer.add_bytes(PLAN, msgspec.json.format(msgspec.json.encode(product.plan)))
        return TargetInfo(
            plan=PLAN,
            kv=kv,
            variants=[Variant(isa.name, f"kernels/cpu/{isa.name}.so", list(isa.features)) for isa in LEVELS],
            scratch_bytes=product.scratch_bytes,
        )
