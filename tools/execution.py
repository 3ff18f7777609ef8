"""Running an entry of a program at any stage: by the interpreter, or compiled for a target, which lowers it first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlir.ir as mlir
import numpy as np

from warploom.errors import CompileError, DeviceError, InvalidRequestError
from warploom.ir.context import parse, print_module
from warploom.ir.dims import bind
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.ops.parameters import param
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import entries, is_op
from warploom.ir.target import Target
from warploom.ir.types import type_of
from warploom.passes.dce import dce
from warploom.passes.inline_groups import inline_groups
from warploom.passes.pipeline import pipeline
from warploom.passes.pipeline import run as run_passes
from warploom.runtime.cuda.driver import Driver
from warploom.tools.gpu_package import Package, numbers, read_package, result_dtypes, run_package, write_package
from warploom.tools.step_values import StepValues, step_values

Arrays = Mapping[str, np.ndarray]
Load = Callable[[str], np.ndarray]
CUDA = "cuda"


@dataclass(frozen=True)
class Workload:
    """What to run: an entry, its inputs, and where `@prepare` reads checkpoint tensors."""

    entry: str
    inputs: Arrays
    load: Load


@dataclass(frozen=True)
class Against:
    """What results are compared with: a place that computed some (or none), and how far they may be apart."""

    place: str
    tolerance: float
    results: Arrays


def interpret(module: mlir.Module, work: Workload) -> dict[str, np.ndarray]:
    """Return the results of an entry as the interpreter computes them; see `evaluate` for errors."""
    return evaluate(module, work.entry, work.inputs, _params(module, work.load))


def run_on_cpu(module: mlir.Module, work: Workload) -> dict[str, np.ndarray]:
    """Return the results of native code for this machine; the module is not changed.

    Raises:
        CompileError: no kernels for a group, or the machine is too old.
    """
    from warploom.codegen.cpu.driver import compile_entries
    from warploom.codegen.cpu.executor import NativeModule
    from warploom.codegen.cpu.isa import LEVELS
    from warploom.codegen.cpu.target import CPU
    from warploom.runtime.machine import cpu_features

    runnable = [isa for isa in LEVELS if cpu_features().issuperset(isa.features)]
    if not runnable:
        wanted = " or ".join(isa.name for isa in LEVELS)
        raise CompileError("this CPU cannot run our code", expected=wanted, found="an older CPU")
    lowered = lowered_for(module, CPU)
    with tempfile.TemporaryDirectory() as folder:
        product = compile_entries(lowered, runnable[-1:], Path(folder))
        (library,) = product.libraries.values()
        with NativeModule(product.plan, library, product.scratch_bytes) as native:
            return native.run(work.entry, work.inputs, _params(lowered, work.load))


def package_for_cuda(module: mlir.Module, work: Workload, arch: str, folder: Path, against: Against) -> None:
    """Compile the entry for a GPU architecture, and write it with its data into a folder; the module is not changed.

    Raises:
        CompileError: no kernels for a group, or an unknown architecture.
        InvalidRequestError: the folder holds something.
    """
    from warploom.codegen.cuda.architecture import CudaTarget
    from warploom.codegen.cuda.driver import compile_entries
    from warploom.codegen.cuda.target import cuda

    target = CudaTarget(arch)
    lowered = lowered_for(_only(module, work.entry), cuda(target))
    product = compile_entries(lowered, target)
    params = _params(lowered, work.load)
    needed = {b.name for b in product.plan.entries[work.entry].buffers if b.kind == "param"}
    steps = step_values(lowered, work.entry, work.inputs, params) if against.place == "interpreter" else StepValues()
    dims = _dims(lowered, work)
    package = Package(work.entry, dims, arch, against.place, against.tolerance, product.plan, steps.steps)
    arrays = {"input": work.inputs, "param": {name: params[name] for name in needed}, "expected": against.results}
    arrays |= {"value": steps.values, "slack": steps.slack}
    write_package(folder, package, product.files, arrays)


def run_on_cuda(module: mlir.Module, work: Workload, arch: str) -> dict[str, np.ndarray]:
    """Return the results of a GPU of this machine, those of few bits as f32; see `package_for_cuda` for errors.

    Raises:
        DeviceError: there is no GPU.
    """
    here = _gpu_arch()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "package"
        package_for_cuda(module, work, arch or here, place, Against("", 0.0, {}))
        dtypes = result_dtypes(read_package(place)[0])
        return {name: numbers(array, dtypes[name]) for name, array in run_package(place).items()}


def _gpu_arch() -> str:
    """The architecture of this machine's GPU: sm_90; DeviceError if there is none."""
    try:
        driver = Driver()
    except DeviceError as error:
        fix = "--save FOLDER writes all that a GPU needs, and `warploom run FOLDER` runs it where there is one"
        raise DeviceError(error.what, expected=error.expected, found=error.found, fix=fix) from error
    driver.close()
    return f"sm_{driver.gpu.capability}"


def _only(module: mlir.Module, entry: str) -> mlir.Module:
    """A copy without the other entries."""
    copy = parse(print_module(module))
    for function in entries(copy):
        if function.name != entry:
            function.operation.operation.erase()
    dce(copy)
    return copy


def _dims(module: mlir.Module, work: Workload) -> dict[str, int]:
    """The sizes of the entry's symbols, which the shapes of its inputs say; 0 for one that they do not say."""
    function, found = functions(module)[work.entry], dict[str, int]()
    inputs = function.inputs.items()
    bind([type_of(value).shape for _, value in inputs], [work.inputs[name].shape for name, _ in inputs], found)
    return {name: found.get(name, 0) for name in function.dims}


RUNNERS: dict[str, Callable[[mlir.Module, Workload], dict[str, np.ndarray]]] = {
    "interpreter": interpret,
    "cpu": run_on_cpu,
}


def runner_of(name: str) -> Callable[[mlir.Module, Workload], dict[str, np.ndarray]]:
    """Return what runs a program on `interpreter`, `cpu`, `cuda` or, with an architecture, `cuda:sm_90`.

    Raises:
        InvalidRequestError: no such place.
    """
    if is_cuda(name):
        return partial(run_on_cuda, arch=name.partition(":")[2])
    if name not in RUNNERS:
        places = ", ".join([*RUNNERS, CUDA])
        raise InvalidRequestError(f"programs do not run on {name!r}", expected=places, found=name)
    return RUNNERS[name]


def is_cuda(place: str) -> bool:
    """Whether a place is a GPU."""
    return place.partition(":")[0] == CUDA


def lowered_for(module: mlir.Module, target: Target) -> mlir.Module:
    """Return a copy whose entries hold groups that the target has kernels for; weights keep their format.

    A program that is fused already is taken as it is if the target takes its groups, else fused again.
    """
    copy = parse(print_module(module))
    groups = [function for function in functions(copy).values() if function.is_private]
    if _is_fused(copy) and not any(target.refuses(group) for group in groups):
        return copy
    for _ in run_passes(copy, [inline_groups, *pipeline(target, None)]):
        pass
    return copy


def _is_fused(module: mlir.Module) -> bool:
    return all(op.name == "func.call" or is_op(op, param, reshape) for f in entries(module) for op in f.ops)


def _params(module: mlir.Module, load: Load) -> dict[str, np.ndarray]:
    return dict(evaluate_exports(module, load)) if "prepare" in functions(module) else {}


def real_weights(model: str) -> Load:
    """Return a loader of the checkpoint tensors of a hub id, folder or .gguf file."""
    from warploom.frontend.checkpoint import open_checkpoint
    from warploom.frontend.stacked import load_tensor, names_of

    tensors = open_checkpoint(model).tensors

    def load(name: str) -> np.ndarray:
        if name not in tensors and not tensors.keys() >= set(names_of(name)):
            raise InvalidRequestError(f"{model} has no tensor {name!r}", fix="give the model that was compiled")
        return load_tensor(tensors, name)

    return load
