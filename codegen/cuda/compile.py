"""Triton kernels to machine code, in worker processes, through a cache on disk.

The cache is content-addressed: the key is a hash of everything that the result depends on, so an entry is never stale
and may be shared by users and versions. It lies in `$XDG_CACHE_HOME/warploom/cuda` (`~/.cache` without).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Operand, Pointer, Table
from warploom.codegen.cuda.resources import Resources, registers_of
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
_READ = {"cubin", "ptx", "ttir", "resources", "tensormaps"}  # of an answer, when the kernel is taken from the cache
WORKER = "warploom.codegen.cuda.worker"
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel for one architecture.

    Attributes:
        source: the Triton module.
        tensormaps: (box, swizzle) of each TMA operand, in order.
    """

    name: str
    source: str
    cubin: bytes
    ptx: str
    ttir: str
    resources: Resources
    tensormaps: tuple[tuple[tuple[int, ...], int], ...]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; everything that its answer depends on, save Triton's version."""

    name: str
    source: str
    signature: dict[str, str]
    options: dict[str, int | bool]
    capability: int

    @property
    def code_hash(self) -> str:
        """Of all that is given to Triton."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Of its cache entry."""
        return hashlib.sha256(json.dumps([asdict(self), _triton_version()]).encode()).hexdigest()


def compile_kernels(
    specs: Sequence[CudaKernelSpec],
    target: CudaTarget,
    done: Callable[[int], None] = lambda count: None,
    refuse_excess: bool = True,
) -> list[CompiledKernel]:
    """Compile kernels for a target.

    Args:
        specs: without repetition.
        done: is called with the number of kernels that are ready, as they get ready.
        refuse_excess: whether a kernel that needs more than the architecture has is an error.

    Raises:
        CompileError: Triton is missing or of another version, it rejects a kernel or crashes on it, or a kernel needs
            more registers or shared memory than the target has.
    """
    kernels: dict[CudaKernelSpec, CompiledKernel] = {}
    with _Workers() as workers, ThreadPoolExecutor(os.cpu_count()) as threads:
        pending = {threads.submit(_compile, spec, target, workers): spec for spec in specs}
        try:
            for future in as_completed(pending):
                kernels[pending[future]] = kernel = future.result()
                if refuse_excess and (excess := kernel.resources.excess(target)):
                    raise CompileError(
                        f"kernel {kernel.name} does not fit {target.arch}: it needs {excess}",
                        fix="choose smaller tiles in codegen/tuning, or fewer stages",
                    )
                done(len(kernels))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return [kernels[spec] for spec in specs]


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
    launched = ("pdl", "cooperative")  # how it is launched, not compiled
    options = {
        name: value for name, value in asdict(spec.options).items() if name not in launched and value is not None
    }
    options["launch_pdl"] = spec.options.pdl
    return Job(spec.name, spec.source(), signature(spec.operands, spec.dims), options, target.capability)


def _compile(spec: CudaKernelSpec, target: CudaTarget, workers: _Workers) -> CompiledKernel:
    job = job_of(spec, target)
    path = _cache_folder() / job.key[:2] / f"{job.key}.json"
    answer = _read(path)
    if answer is None:
        answer = _answer(job, workers)
        _write(path, answer)
    return CompiledKernel(
        name=spec.name,
        source=job.source,
        cubin=base64.b64decode(answer["cubin"]),
        ptx=answer["ptx"],
        ttir=answer["ttir"],
        resources=Resources(**answer["resources"]),
        tensormaps=tuple((tuple(m["box"]), m["swizzle"]) for m in answer["tensormaps"]),
    )


def _answer(job: Job, workers: _Workers) -> Answer:
    """What a worker makes of a job, with the resources that the machine code uses."""
    answer = workers.run(job)
    if "error" in answer:
        raise CompileError(f"Triton rejects kernel {job.name}", found=answer["error"], fix="report this kernel")
    if answer["scratch_bytes"]:
        raise CompileError(
            f"kernel {job.name} needs global scratch memory, which the runtime does not give",
            expected="TMA descriptors made by the host",
            found=f"{answer['scratch_bytes']} bytes",
        )
    registers, spilled = registers_of(base64.b64decode(answer["cubin"]))
    return answer | {
        "resources": asdict(Resources(answer["num_warps"], answer["shared_bytes"], registers, spilled)),
    }


@dataclass
class _Workers:
    """Compiler processes, started as they are needed and reused."""

    _idle: SimpleQueue[subprocess.Popen[str]] = field(default_factory=SimpleQueue)

    def run(self, job: Job) -> Answer:
        """The answer of a worker to a job. A worker that dies is not replaced by a guess."""
        worker = self._take()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            print(json.dumps(asdict(job)), file=worker.stdin, flush=True)
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            worker.communicate()
            raise CompileError(
                f"the compiler died on kernel {job.name}",
                expected="machine code or an error message",
                found=f"exit status {worker.returncode}; LLVM's message is on stderr",
                fix="report this kernel",
            )
        self._idle.put(worker)
        answer: Answer = json.loads(line)
        return answer

    def _take(self) -> subprocess.Popen[str]:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._start()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        _triton_version()
        command, pipe = [sys.executable, "-m", WORKER], subprocess.PIPE
        settings = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=settings)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._idle.empty():
            worker = self._idle.get()
            worker.communicate()  # the end of its stdin ends it


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError as error:
        raise CompileError(
            "compiling for CUDA needs the package triton", fix="pip install 'warploom[compile]' on a Linux machine"
        ) from error


def _cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "warploom" / "cuda"


def _read(path: Path) -> Answer | None:
    """A cache entry; one that cannot be read is none."""
    try:
        entry: Answer = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) and entry.keys() >= _READ else None


def _write(path: Path, answer: Answer) -> None:
    """Add a cache entry, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(answer))
    partial.replace(path)
