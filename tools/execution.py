"""Running an entry of a program at any stage: by the interpreter, or compiled for a target, which lowers it first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlir.ir as mlir
import numpy as np

from warploom.errors import CompileError, InvalidRequestError
from warploom.ir.context import parse, print_module
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.ops.parameters import param
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import entries, is_op
from warploom.ir.target import Target
from warploom.passes.inline_groups import inline_groups
from warploom.passes.pipeline import pipeline
from warploom.passes.pipeline import run as run_passes

Arrays = Mapping[str, np.ndarray]
Load = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Workload:
    """What to run: an entry, its inputs, and where `@prepare` reads checkpoint tensors."""

    entry: str
    inputs: Arrays
    load: Load


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


RUNNERS: dict[str, Callable[[mlir.Module, Workload], dict[str, np.ndarray]]] = {
    "interpreter": interpret,
    "cpu": run_on_cpu,
}


def runner_of(name: str) -> Callable[[mlir.Module, Workload], dict[str, np.ndarray]]:
    """Return what runs a program on `interpreter` or `cpu`.

    Raises:
        InvalidRequestError: no such place.
    """
    if name not in RUNNERS:
        raise InvalidRequestError(f"programs do not run on {name!r}", expected=", ".join(RUNNERS), found=name)
    return RUNNERS[name]


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

    tensors = open_checkpoint(model).tensors

    def load(name: str) -> np.ndarray:
        if name not in tensors:
            raise InvalidRequestError(f"{model} has no tensor {name!r}", fix="give the model that was compiled")
        return tensors[name].load()

    return load
