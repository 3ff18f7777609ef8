"""Candidates of linear layers as programs that a GPU machine can run without a compiler.

A folder of programs holds `programs.json` and cubins. A program is what one variant of a layer runs: the problem, a
range of tokens, launches, temps. A kernel without a cubin is left to be compiled there, as a job for
`codegen/cuda/worker.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlir.ir as mlir
import msgspec

from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.job import job_of
from warploom.codegen.cuda.kernel import CudaKernelSpec, TensorMap, Variant
from warploom.codegen.cuda.kernels.linear import KIND, lower
from warploom.codegen.cuda.kernels.linear_group import read_group
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import Choice
from warploom.codegen.cuda.layer_key import key_of
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.families import kind_of
from warploom.ir.function import functions

Progress = Callable[[int, int], None]  # kernels that are compiled, and all


class Programs:
    """Programs and the kernels that they launch."""

    def __init__(self, target: CudaTarget) -> None:
        self.programs: list[dict[str, Any]] = []
        self.specs: dict[str, CudaKernelSpec] = {}
        self._target = target

    def add(self, use: str, name: str, problem: LinearProblem, choices: tuple[Choice, ...]) -> None:
        """Every choice as a program.

        Args:
            use: what for: `check`, `bench` or `sweep`.
            name: of the layer, for people.
        """
        operands = [operand.name for operand in problem.operands]
        slots = {operand: Slot("input", index) for index, operand in enumerate(operands)}
        found = lower(problem, Scope(slots, {"T": "T"}), choices, self._target)
        begin = 1
        for choice, variant in zip(choices, found.variants, strict=True):
            self.specs |= {step.spec.name: step.spec for step in variant.steps}
            temps = [
                {"shape": [str(d) for d in t.type.shape], "dtype": str(t.type.dtype), "zeroed": t.zeroed}
                for t in found.temps
            ]
            self.programs.append(
                {
                    "use": use,
                    "name": name,
                    "key": key_of(problem),
                    "problem": asdict(problem) | {"width": problem.width, "weight_bytes": problem.weight_bytes},
                    "arrays": _arrays(problem),
                    "begin": begin,
                    "end": choice.up_to,
                    "choice": msgspec.to_builtins(choice),
                    "temps": temps,
                    "steps": list(_steps(variant, operands)),
                }
            )
            begin = (choice.up_to or 0) + 1

    def write(
        self, folder: Path, compiled: Collection[str], progress: Progress = lambda done, total: None
    ) -> list[str]:
        """Write the folder.

        Args:
            compiled: names of the kernels to compile here; the others are left as jobs.

        Returns:
            Kernels that need more than the GPU has.
        """
        folder.mkdir(parents=True, exist_ok=True)
        ready = [spec for spec in self.specs.values() if spec.name in compiled]
        kernels = compile_kernels(ready, self._target, lambda done: progress(done, len(ready)), refuse_excess=False)
        for kernel in kernels:
            (folder / f"{kernel.name}.cubin").write_bytes(kernel.cubin)
        fitting = [kernel for kernel in kernels if kernel.resources.excess(self._target) is None]
        found = {
            "arch": self._target.arch,
            "programs": self.programs,
            "kernels": {spec.name: _describe(spec) for spec in self.specs.values()},
            "compiled": {k.name: asdict(k.resources) | {"tensormaps": k.tensormaps} for k in fitting},
            "jobs": [asdict(job_of(spec, self._target)) for spec in self.specs.values() if spec not in ready],
        }
        (folder / "programs.json").write_text(json.dumps(found))
        return sorted({kernel.name for kernel in kernels} - {kernel.name for kernel in fitting})


def problems_of(module: mlir.Module) -> dict[str, LinearProblem]:
    """The linear layers of a fused module by `key_of`."""
    groups = [group for group in functions(module).values() if group.is_private and kind_of(group) == KIND]
    found = [problem for group in groups if not isinstance(read := read_group(group), str) for problem in read[:1]]
    return {key_of(problem): problem for problem in found}


def _arrays(problem: LinearProblem) -> dict[str, dict[str, Any]]:
    """Dtype and shape of every operand."""
    n, k, width, weight = problem.n, problem.k, problem.width, problem.weight
    shapes: dict[str, tuple[str | int, ...]] = {
        "x": ("T", k),
        "x_scale": ("T",),
        "gain": (k,),
        "w": (n, k * weight.bits // (8 * weight.stored.numpy.itemsize)),
        "scale": (n, weight.groups),
        "offset": (n, weight.groups),
        "bias": (n,),
        "residual": ("T", width),
        "out": ("T", width),
    }
    return {o.name: {"dtype": str(o.dtype), "shape": [str(d) for d in shapes[o.name]]} for o in problem.operands}


def _steps(variant: Variant, operands: list[str]) -> Iterator[dict[str, Any]]:
    for step in variant.steps:
        names = [operands[slot.index] if slot.side == "input" else slot.index for slot in step.operands]
        yield {"kernel": step.spec.name, "operands": names}


def _describe(spec: CudaKernelSpec) -> dict[str, Any]:
    """What a launcher has to know, apart from what the compiler says."""
    operands = [
        {"kind": "tensormap", "dtype": str(operand.dtype), "shape": [str(extent) for extent in operand.shape]}
        if isinstance(operand, TensorMap)
        else {"kind": "pointer"}
        for operand in spec.operands
    ]
    grid = [str(extent) for extent in spec.grid]
    return {"operands": operands, "dims": len(spec.dims), "grid": grid, "pdl": spec.options.pdl}
