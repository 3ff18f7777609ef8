"""What a compiler process is told of a kernel: all that machine code depends on, but the compiler's version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Operand, Pointer, Table
from warploom.codegen.cuda.nvrtc import PACKAGE as NVRTC
from warploom.codegen.cuda.nvrtc import is_cpp
from warploom.errors import CompileError
from warploom.ir.types import DType

_TRITON_TYPE = {
    DType.F32: "fp32",
    DType.F16: "fp16",
    DType.BF16: "bf16",
    DType.F8: "fp8e4nv",
    DType.I1: "i1",
    DType.I8: "i8",
    DType.I32: "i32",
    DType.I64: "i64",
}


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; everything that its answer depends on, save the compiler's version."""

    name: str
    source: str
    signature: dict[str, str]
    options: dict[str, int | bool]
    capability: int

    @property
    def code_hash(self) -> str:
        """Of all that is given to the compiler."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Of its cache entry."""
        versions = [triton_version(), *([version_of(NVRTC)] if self.is_cpp else [])]
        return hashlib.sha256(json.dumps([asdict(self), *versions]).encode()).hexdigest()

    @property
    def is_cpp(self) -> bool:
        """Whether the source is CUDA C++; else it is Triton's."""
        return is_cpp(self.options)


def signature(operands: Sequence[Operand], dims: Sequence[str]) -> dict[str, str]:
    """Triton's types of a kernel's parameters by name."""
    types = {}
    for operand in operands:
        if isinstance(operand, Table):
            types[operand.name] = "*i64"
            continue
        element = _TRITON_TYPE[operand.dtype]
        if isinstance(operand, Pointer):
            types[operand.name] = f"*{element}"
        else:
            layout = f",{operand.layout}" if operand.layout is not None else ""
            types[operand.name] = f"tensordesc<{element}[{', '.join(map(str, operand.block))}]{layout}>"
    return types | dict.fromkeys(dims, "i32")


def job_of(spec: CudaKernelSpec, target: CudaTarget) -> Job:
    """The job that compiles a kernel."""
    launched = ("pdl", "cooperative", "cluster")  # how it is launched, not compiled
    options = {
        name: value for name, value in asdict(spec.options).items() if name not in launched and value is not None
    }
    options["launch_pdl"] = spec.options.pdl
    return Job(spec.name, spec.source(), signature(spec.operands, spec.dims), options, target.capability)


def triton_version() -> str:
    """Of the installed package; CompileError if it is missing."""
    return version_of("triton")


def version_of(package: str) -> str:
    """Of an installed package; CompileError if it is missing."""
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise CompileError(
            f"compiling for CUDA needs the package {package}",
            fix="pip install 'warploom[compile-cuda]' on a Linux machine",
        ) from error
