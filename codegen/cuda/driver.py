"""From a fused module to CUDA kernels and the plan that launches them, for one architecture.

Groups whose kernels have equal specs share one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import mlir.ir as mlir
import msgspec

from warploom.codegen.backend import Progress
from warploom.codegen.binding import Binding, Lowering, call_of
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import CompiledKernel, compile_kernels
from warploom.codegen.cuda.feed import FEED, feed_entry, feed_spec
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Pointer, Step, Table, Template
from warploom.codegen.cuda.persistent.replace import replace_by_one
from warploom.codegen.cuda.templates import find_kernels, templates
from warploom.codegen.cuda.variants import live_variants
from warploom.codegen.expressions import substitute
from warploom.codegen.families import Chosen, distinct, kind_of, match_groups
from warploom.codegen.plan import build_entry
from warploom.errors import CompileError
from warploom.ir.function import Function, functions, public_functions
from warploom.ir.verify import PREPARE
from warploom.runtime.plan import (
    CudaInfo,
    DimParam,
    Entry,
    Guard,
    KernelInfo,
    Plan,
    PointerParam,
    TableParam,
    TensorMapParam,
)

PERSISTENT = "persistent"  # kind of the kernel that runs a step of one token


@dataclass(frozen=True)
class CudaProduct:
    """What code generation for one architecture gives.

    Attributes:
        plan: the launch plan of all entries.
        files: by the paths in the artifact that the plan names: `kernels/cuda/sm_90/<kernel>.{py,ttir,ptx,cubin}`,
            or `.{cu,ptx,cubin}`.
    """

    plan: Plan
    files: dict[str, bytes]


@dataclass(frozen=True)
class CudaProgram:
    """What is to be launched: the plan of all entries, and its kernels by name, none of them compiled."""

    entries: dict[str, Entry]
    kernels: dict[str, Chosen[CudaKernelSpec]]


def compile_entries(
    module: mlir.Module,
    target: CudaTarget,
    progress: Progress = lambda stage, fraction: None,
    families: Sequence[Template] | None = None,
) -> CudaProduct:
    """Compile every entry of a module but `@prepare`.

    Args:
        module: verified and fused: entries hold params and calls of groups.
        target: one architecture; kernels and plan are its own.
        families: the kernel families; None: all of `kernels/`.

    Raises:
        CompileError: a group without a kernel, an entry that cannot be planned, or a kernel that does not compile.
    """
    program, compiled = _compile_fitting(module, target, progress, families)
    chosen = program.kernels.values()
    folder = f"kernels/cuda/{target.arch}"
    return CudaProduct(
        plan=Plan(program.entries, {k.name: _describe(c, k, folder) for c, k in zip(chosen, compiled, strict=True)}),
        files={path: data for kernel in compiled for path, data in _files(kernel, folder)},
    )


def _compile_fitting(
    module: mlir.Module, target: CudaTarget, progress: Progress, families: Sequence[Template] | None
) -> tuple[CudaProgram, list[CompiledKernel]]:
    """Plan and compile; again with smaller tiles, where there are, for what needs more than the architecture has."""
    program = without_excess(plan_program(module, target, families), target)
    specs = [chosen.spec for chosen in program.kernels.values()]

    def compiled(refuse_excess: bool) -> list[CompiledKernel]:
        stage = f"compiling kernels for {target.arch}"
        return compile_kernels(specs, target, lambda done: progress(stage, done / len(specs)), refuse_excess)

    kernels = compiled(refuse_excess=False)
    excess = {kernel.name for kernel in kernels if kernel.resources.excess(target)}
    if excess <= target.excluded:
        return program, compiled(refuse_excess=True) if excess else kernels
    excluded = replace(target, excluded=target.excluded | excess)
    return _compile_fitting(module, excluded, progress, families)


def plan_program(module: mlir.Module, target: CudaTarget, families: Sequence[Template] | None = None) -> CudaProgram:
    """Choose the kernels of every entry of a module but `@prepare`, and plan their launches.

    The arguments and errors are those of `compile_entries`.
    """
    entries = {name: f for name, f in public_functions(module).items() if name != PREPARE}
    groups = functions(module)
    known = templates() if families is None else families

    def match(group: Function, entry: Function) -> Match | str:
        """Without variants that are never chosen."""
        found = find_kernels(group, target, known)
        return (
            found
            if isinstance(found, str)
            else Match(live_variants(group.name, found.variants, entry.dims), found.temps)
        )

    matches = match_groups(entries, groups, match)
    kernels = distinct(chosen for name, found in matches.items() for chosen in _chosen(groups[name], found))
    lowerings = {name: _lower(groups[name], match) for name, match in matches.items()}
    planned = {name: build_entry(function, groups, lowerings) for name, function in entries.items()}
    if "step" in planned and "sample" in planned:
        feed = feed_spec(target)
        kernels[feed.name] = Chosen(FEED, feed)
        planned[FEED] = feed_entry(feed, planned["step"].dims["T"], planned["sample"].dims["R"].max)
    if "step" in planned:
        specs = {name: chosen.spec for name, chosen in kernels.items()}
        if not isinstance(replaced := replace_by_one(planned["step"], specs, target), str):
            planned["step"], persistent = replaced
            kernels[persistent.name] = Chosen(PERSISTENT, persistent)
    return CudaProgram(planned, kernels)


def without_excess(program: CudaProgram, target: CudaTarget) -> CudaProgram:
    """The program without a persistent kernel that would spill: the launches that it replaces are there."""
    names = [name for name, chosen in program.kernels.items() if chosen.kind == PERSISTENT]
    compiled = compile_kernels([program.kernels[name].spec for name in names], target, refuse_excess=False)
    excess = {kernel.name for kernel in compiled if kernel.resources.excess(target)}
    if not excess:
        return program
    entries = {
        name: msgspec.structs.replace(
            entry, replacements=[one for one in entry.replacements if one.launch.kernel not in excess]
        )
        for name, entry in program.entries.items()
    }
    return CudaProgram(entries, {name: chosen for name, chosen in program.kernels.items() if name not in excess})


def _chosen(group: Function, match: Match) -> Iterator[Chosen[CudaKernelSpec]]:
    """The kernels of a group."""
    for variant in match.variants:
        for step in variant.steps:
            yield Chosen(kind_of(group), step.spec)


def _lower(group: Function, match: Match) -> Lowering:
    """The match with all expressions over the group's symbols, folded."""
    return Lowering(
        tuple(_bind(group, step, variant.when) for variant in match.variants for step in variant.steps), match.temps
    )


def _bind(group: Function, step: Step, when: Guard | None) -> Binding:
    spec = step.spec
    if len(step.operands) != len(spec.operands):
        raise CompileError(f"kernel {spec.name} has {len(spec.operands)} operands", found=f"{len(step.operands)} slots")
    call = call_of(spec.name, spec.dims, group, step.dims, step.operands)
    grid = tuple(call.over_symbols(extent) for extent in spec.grid)
    blocks = substitute("(x) * (y) * (z)", dict(zip("xyz", grid, strict=True)))
    return Binding(spec.name, call.operands, tuple(call.dims.values()), blocks, grid, when)


def _describe(choice: Chosen[CudaKernelSpec], kernel: CompiledKernel, folder: str) -> KernelInfo:
    spec, resources, path = choice.spec, kernel.resources, f"{folder}/{kernel.name}"
    return KernelInfo(
        kind=choice.kind,
        summary=str(spec),
        source=f"{path}{_suffix(kernel)}",
        dims=list(spec.dims),
        flops=spec.flops,
        bytes=spec.bytes,
        cuda=CudaInfo(
            cubin=f"{path}.cubin",
            ptx=f"{path}.ptx",
            ttir=f"{path}.ttir" if kernel.ttir else None,
            num_warps=resources.num_warps,
            shared_bytes=resources.shared_bytes,
            registers=resources.registers,
            spill_bytes=resources.spill_bytes,
            pdl=spec.options.pdl,
            params=[*_operand_params(spec, kernel), *(DimParam() for _ in spec.dims)],
            cooperative=spec.options.cooperative,
            cluster=spec.options.cluster,
        ),
    )


def _operand_params(
    spec: CudaKernelSpec, kernel: CompiledKernel
) -> Iterator[PointerParam | TensorMapParam | TableParam]:
    tensormaps = iter(kernel.tensormaps)
    for operand in spec.operands:
        if isinstance(operand, Pointer):
            yield PointerParam()
        elif isinstance(operand, Table):
            yield TableParam(operand.count)
        else:
            box, swizzle = next(tensormaps)
            yield TensorMapParam(str(operand.dtype), list(operand.shape), list(box), swizzle)


def _suffix(kernel: CompiledKernel) -> str:
    """Of the source, which is CUDA C++ where there is no ttir."""
    return ".py" if kernel.ttir else ".cu"


def _files(kernel: CompiledKernel, folder: str) -> Iterator[tuple[str, bytes]]:
    path = f"{folder}/{kernel.name}"
    yield f"{path}{_suffix(kernel)}", kernel.source.encode()
    if kernel.ttir:
        yield f"{path}.ttir", kernel.ttir.encode()
    yield f"{path}.ptx", kernel.ptx.encode()
    yield f"{path}.cubin", kernel.cubin
