"""From a fused module to native code: kernels chosen, plan built, one shared object per ISA level.

Groups whose kernels have equal specs share one kernel. The levels are built side by side: emitting is Python, but
most of the time goes to `llc` and `cc`, which are processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import mlir.ir as mlir

from warploom.codegen.binding import Binding, Lowering, Slot
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.entry import declare_pool, emit_entry
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernel import KernelSpec, Match, Template
from warploom.codegen.cpu.templates import find_kernel, kind_of, templates
from warploom.codegen.cpu.toolchain import build_shared_object
from warploom.codegen.expressions import substitute
from warploom.codegen.plan import build_entry, called, callee
from warploom.errors import CompileError
from warploom.ir.function import Function, functions, path_of, public_functions
from warploom.ir.verify import PREPARE
from warploom.runtime.expr import Expr
from warploom.runtime.plan import KernelInfo, Plan

Progress = Callable[[str, float], None]  # what is going on, and the fraction of it that is done
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


@dataclass(frozen=True)
class _Choice:
    """A kernel and the kind of the groups that it computes."""

    kind: str
    spec: KernelSpec


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
    matches = _match_groups(entries, groups, templates() if families is None else families)
    kernels = _distinct_kernels(groups, matches)
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


def _match_groups(
    entries: dict[str, Function], groups: dict[str, Function], families: Sequence[Template]
) -> dict[str, Match]:
    """The kernel of every group that is called, in order of first call."""
    matches: dict[str, Match] = {}
    for entry in entries.values():
        for call in called(entry):
            name = callee(call)
            if name in matches:
                continue
            found = find_kernel(groups[name], families)
            if isinstance(found, str):
                raise CompileError(
                    f"no kernel computes the group @{name} of @{entry.name} ({path_of(call) or 'no module path'})",
                    expected="a family in codegen/cpu/kernels that takes it",
                    found=found,
                    fix="add the case to a kernel family, or let the passes decompose the group's hero",
                )
            matches[name] = found
    return matches


def _distinct_kernels(groups: dict[str, Function], matches: dict[str, Match]) -> dict[str, _Choice]:
    """The kernels by symbol, equal specs once."""
    kernels: dict[str, _Choice] = {}
    for name, match in matches.items():
        known = kernels.setdefault(match.spec.name, _Choice(kind_of(groups[name]), match.spec))
        if known.spec != match.spec:
            raise CompileError(
                f"two kernels are named {match.spec.name}",
                expected="a name that tells specs apart",
                found=f"{known.spec} and {match.spec}",
            )
    return kernels


def _bind(group: Function, match: Match) -> Binding:
    """The match with all expressions over the group's symbols, folded."""
    spec, symbols = match.spec, {name: name for name in group.dims}

    def over_symbols(expr: Expr, names: Mapping[str, Expr]) -> Expr:
        try:
            return substitute(expr, names)
        except KeyError as error:
            raise CompileError(
                f"kernel {spec.name} reads a dim that @{group.name} does not give it",
                expected=f"one of {', '.join(names) or 'no dims'}",
                found=str(error.args[0]),
            ) from error

    dims = {name: over_symbols(match.dims[name], symbols) for name in spec.dims}
    operands = tuple(Slot(s.side, s.index, over_symbols(s.offset, symbols)) for s in match.operands)
    return Binding(spec.name, operands, tuple(dims.values()), over_symbols(spec.tiles, dims))


def _describe(choice: _Choice) -> KernelInfo:
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
