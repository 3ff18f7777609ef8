"""From a fused module to native code: kernels chosen, plan built, one shared object per ISA level.

Groups whose kernels have equal specs share one kernel. The levels are built side by side: emitting is Python, but
most of the time goes to `llc` and `cc`, which are processes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import mlir.ir as mlir

from warploom.codegen.backend import Progress
from warploom.codegen.binding import Binding, Lowering, call_of
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.entry import declare_pool, emit_entry
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernel import KernelSpec, Match, Template
from warploom.codegen.cpu.templates import find_kernel, templates
from warploom.codegen.cpu.toolchain import build_shared_object
from warploom.codegen.families import Chosen, distinct, kind_of, match_groups
from warploom.codegen.plan import build_entry
from warploom.ir.function import Function, functions, public_functions
from warploom.ir.verify import PREPARE
from warploom.runtime.plan import KernelInfo, Plan

STAGE = "generating code"


@dataclass(frozen=True)
class CpuProduct:
    """What code generation gives.

    Attributes:
        plan: the launch plan of all entries.
        libraries: the shared object of each ISA level, in the order asked for.
        sources: readable MLIR by the path that the plan's kernels name (`kernels/cpu/source/<kernel>.mlir`), as
            emitted for the first level.
        scratch_bytes: memory that each worker thread needs for kernels.
    """

    plan: Plan
    libraries: dict[Isa, Path]
    sources: dict[str, str]
    scratch_bytes: int


def compile_entries(
    module: mlir.Module,
    isas: Sequence[Isa],
    out_dir: Path,
    progress: Progress = lambda stage, fraction: None,
    families: Sequence[Template] | None = None,
) -> CpuProduct:
    """Compile every entry of a module but `@prepare`.

    Args:
        module: verified and fused: entries hold params and calls of groups.
        isas: levels to build for, at least one.
        out_dir: an existing folder, where `<isa>.so` are written.
        progress: is called from other threads too.
        families: the kernel families; None: all of `kernels/`.

    Raises:
        CompileError: a group without a kernel, an entry that cannot be planned, or a toolchain that fails.
    """
    entries = {name: f for name, f in public_functions(module).items() if name != PREPARE}
    groups = functions(module)
    known = templates() if families is None else families
    matches = match_groups(entries, groups, lambda group, entry: find_kernel(group, known))
    kernels = distinct(Chosen(kind_of(groups[name]), match.spec) for name, match in matches.items())
    lowerings = {name: Lowering((_bind(groups[name], match),)) for name, match in matches.items()}
    plan = Plan(
        entries={name: build_entry(function, groups, lowerings) for name, function in entries.items()},
        kernels={name: _describe(choice) for name, choice in kernels.items()},
    )
    specs = [choice.spec for choice in kernels.values()]
    done, steps = count(1), 2 * len(isas)

    def build(isa: Isa) -> Library:
        library = _emit(specs, plan, isa)
        progress(STAGE, next(done) / steps)
        build_shared_object(library, out_dir / f"{isa.name}.so")
        progress(STAGE, next(done) / steps)
        return library

    with ThreadPoolExecutor() as threads:
        first, *_ = threads.map(build, isas)
    return CpuProduct(
        plan=plan,
        libraries={isa: out_dir / f"{isa.name}.so" for isa in isas},
        sources={plan.kernels[spec.name].source: first.source(spec.name) for spec in specs},
        scratch_bytes=max((spec.scratch_bytes for spec in specs), default=0),
    )


def _bind(group: Function, match: Match) -> Binding:
    """The match with all expressions over the group's symbols, folded."""
    spec = match.spec
    call = call_of(spec.name, spec.dims, group, match.dims, match.operands)
    return Binding(spec.name, call.operands, tuple(call.dims.values()), call.over_symbols(spec.tiles))


def _describe(choice: Chosen[KernelSpec]) -> KernelInfo:
    spec = choice.spec
    return KernelInfo(
        kind=choice.kind,
        summary=str(spec),
        source=f"kernels/cpu/source/{spec.name}.mlir",
        dims=list(spec.dims),
        flops=spec.flops,
        bytes=spec.bytes,
    )


def _emit(specs: Sequence[KernelSpec], plan: Plan, isa: Isa) -> Library:
    library = Library(isa)
    declare_pool(library)
    for spec in specs:
        spec.emit(library)
    for name, entry in plan.entries.items():
        emit_entry(library, name, entry)
    return library
