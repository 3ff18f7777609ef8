"""Kernels to machine code, in worker processes, through a cache on disk."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.job import Job, job_of
from warploom.codegen.cuda.kernel import CudaKernelSpec
from warploom.codegen.cuda.kernel_cache import read_entry, write_entry
from warploom.codegen.cuda.resources import Resources, registers_of
from warploom.codegen.cuda.workers import Answer, Workers
from warploom.errors import CompileError


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel for one architecture.

    Attributes:
        source: the Triton module, or CUDA C++, of which there is no ttir.
        tensormaps: (box, swizzle) of each TMA operand, in order.
    """

    name: str
    source: str
    cubin: bytes
    ptx: str
    ttir: str
    resources: Resources
    tensormaps: tuple[tuple[tuple[int, ...], int], ...]


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
        CompileError: a compiler is missing, it rejects a kernel or crashes on it, or a kernel needs
            more registers or shared memory than the target has.
    """
    kernels: dict[CudaKernelSpec, CompiledKernel] = {}
    with Workers() as workers, ThreadPoolExecutor(os.cpu_count()) as threads:
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


def _compile(spec: CudaKernelSpec, target: CudaTarget, workers: Workers) -> CompiledKernel:
    job = job_of(spec, target)
    answer = read_entry(job.key)
    if answer is None:
        answer = _answer(job, workers)
        write_entry(job.key, answer)
    return CompiledKernel(
        name=spec.name,
        source=job.source,
        cubin=base64.b64decode(answer["cubin"]),
        ptx=answer["ptx"],
        ttir=answer["ttir"],
        resources=Resources(**answer["resources"]),
        tensormaps=tuple((tuple(m["box"]), m["swizzle"]) for m in answer["tensormaps"]),
    )


def _answer(job: Job, workers: Workers) -> Answer:
    """What a worker makes of a job, with the resources that the machine code uses."""
    answer = workers.run(job)
    if "error" in answer:
        compiler = "NVRTC" if job.is_cpp else "Triton"
        raise CompileError(f"{compiler} rejects kernel {job.name}", found=answer["error"], fix="report this kernel")
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
