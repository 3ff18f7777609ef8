"""What is inside an artifact, as plain rows: made for `warploom inspect`, whose tables and JSON show the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from warploom.passes.cost import Device, Work, cost
from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.replacements import chosen_launches
from warploom.runtime.expr import evaluate
from warploom.runtime.manifest import TargetInfo
from warploom.runtime.plan import Buffer, Entry, Guard, Launch, Plan
from warploom.runtime.weights import numpy_dtype
from warploom.tools.predictions import works
from warploom.tools.table import count, shown, size, us

# One sequence that decodes one token. P and C are pages, enough for 128 tokens of context.
DECODE_CONTEXT = 128


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk by what they are for."""

    weights: int
    code: int
    sources: int
    other: int
    total: int


@dataclass(frozen=True)
class Summary:
    """An artifact in brief.

    Attributes:
        kv_bytes_per_token: for all layers.
        chat: whether there is a chat template.
        num_launches: by entry; where there are several targets, by target and entry.
        dummy_bytes: of weights that are made up at load.
    """

    path: str
    model: str
    architecture: str
    num_parameters: int
    quantization: str
    max_context: int
    vocab_size: int
    kv_dtype: str
    kv_bytes_per_token: int
    chat: bool
    targets: list[str]
    variants: list[str]
    num_kernels: int
    num_launches: dict[str, int]
    dummy_bytes: int
    bytes: Sizes
    warploom_version: str
    format_version: int


@dataclass(frozen=True)
class KernelRow:
    """One kernel in one entry: all its launches in one call of the entry.

    Attributes:
        predicted, measured: microseconds; measured 0: it was not.
    """

    entry: str
    kernel: str
    kind: str
    launches: int
    flops: int = shown(count)
    bytes: int = shown(size)
    predicted: float = shown(us)
    measured: float = shown(us)
    location: str = ""


@dataclass(frozen=True)
class WeightRow:
    """One packed parameter."""

    weight: str
    dtype: str
    shape: str
    bytes: int = shown(size)


@dataclass(frozen=True)
class MemoryRow:
    """Memory that serving takes. `expression`: over the entry's dims, where the size depends on them."""

    memory: str
    bytes: int = shown(size)
    expression: str = ""


@dataclass(frozen=True)
class LaunchRow:
    """One kernel call; `tiles` is how many independent pieces of work it has."""

    entry: str
    number: int
    kernel: str
    tiles: int
    location: str
    operands: str


def summarize(artifact: Artifact) -> Summary:
    """Return the artifact in brief."""
    manifest = artifact.manifest
    plans = [artifact.plan(target) for target in manifest.targets]
    kv = next(iter(manifest.targets.values())).kv
    return Summary(
        path=str(artifact.path),
        model=manifest.model.id,
        architecture=manifest.model.architecture,
        num_parameters=manifest.model.num_parameters,
        quantization=manifest.quantization,
        max_context=manifest.max_context,
        vocab_size=manifest.vocab_size,
        kv_dtype=kv.dtype,
        kv_bytes_per_token=kv.bytes_per_page // kv.page_size,
        chat=manifest.tokenizer.chat_template is not None,
        targets=list(manifest.targets),
        variants=[name for target in manifest.targets.values() for name in _variants(target)],
        num_kernels=sum(len(plan.kernels) for plan in plans),
        num_launches={
            f"{target} {name}" if len(plans) > 1 else name: len(entry.launches)
            for target, plan in zip(manifest.targets, plans, strict=True)
            for name, entry in plan.entries.items()
        },
        dummy_bytes=sum(
            math.prod(info.shape) * numpy_dtype(info.dtype).itemsize for info in manifest.random_params.values()
        ),
        bytes=_sizes(artifact),
        warploom_version=manifest.warploom_version,
        format_version=manifest.format_version,
    )


def _variants(target: TargetInfo) -> list[str]:
    """What the target's code is for: ISA levels, or a GPU architecture."""
    return [variant.isa for variant in target.variants] if target.cuda is None else [target.cuda.arch]


def _sizes(artifact: Artifact) -> Sizes:
    totals = dict.fromkeys(("weights", "code", "sources", "other"), 0)
    for name, info in artifact.manifest.files.items():
        totals[_purpose(PurePosixPath(name))] += info.bytes
    return Sizes(**totals, total=sum(totals.values()))


def _purpose(path: PurePosixPath) -> str:
    if path.parts[0] == "weights":
        return "weights"
    if path.suffix in (".mlir", ".py", ".cu", ".ttir"):
        return "sources"
    return "code" if path.parts[0] == "kernels" else "other"


def decode_dims(entry: Entry, page_size: int, given: Mapping[str, int]) -> dict[str, int]:
    """Return values for an entry's dims: those given, else one sequence that decodes one token."""
    pages = -(-DECODE_CONTEXT // page_size)
    usual = {"P": pages, "C": pages}
    return {
        name: given.get(name, min(max(usual.get(name, 1), bounds.min), bounds.max))
        for name, bounds in entry.dims.items()
    }


def running(entry: Entry, dims: Mapping[str, int]) -> list[Launch]:
    """Return the launches that run at these dims: some kernels are for a range of a dim only.

    On CUDA: those of a GPU that holds all blocks of a kernel that takes the place of others.
    """

    def holds(guard: Guard) -> bool:
        return guard.min <= evaluate(guard.value, dims) <= guard.max

    chosen = chosen_launches(entry, max((one.multiprocessors for one in entry.replacements), default=0))
    return [
        launch
        for launch, unless in chosen
        if (launch.when is None or holds(launch.when)) and (unless is None or not holds(unless))
    ]


def kernel_rows(
    plan: Plan, page_size: int, given: Mapping[str, int], device: Device, measured: Mapping[str, float]
) -> list[KernelRow]:
    """Return one row per entry and kernel, in the order of their first launch.

    Args:
        device: whose times are predicted.
        measured: microseconds of a launch by kernel, possibly none.
    """
    rows = []
    for entry_name, entry in plan.entries.items():
        dims = decode_dims(entry, page_size, given)
        launches = running(entry, dims)
        by_kernel: dict[str, list[tuple[Launch, Work]]] = {}
        for launch, work in zip(launches, works(plan, entry_name, launches, dims), strict=True):
            by_kernel.setdefault(launch.kernel, []).append((launch, work))
        rows += [_kernel_row(plan, entry_name, same, device, measured) for same in by_kernel.values()]
    return rows


def _kernel_row(
    plan: Plan, entry: str, same: list[tuple[Launch, Work]], device: Device, measured: Mapping[str, float]
) -> KernelRow:
    first, _ = same[0]
    return KernelRow(
        entry=entry,
        kernel=first.kernel,
        kind=plan.kernels[first.kernel].kind,
        launches=len(same),
        flops=int(sum(work.flops for _, work in same)),
        bytes=int(sum(work.bytes for _, work in same)),
        predicted=sum(cost(work, device).us for _, work in same),
        measured=len(same) * measured.get(first.kernel, 0.0),
        location=first.location,
    )


def weight_rows(artifact: Artifact, plan: Plan) -> list[WeightRow]:
    """Return the packed parameters of a target in the order of the files, then those that are made up at load."""
    params = {b.name: b for entry in plan.entries.values() for b in entry.buffers if b.kind == "param"}
    names = [name for name in (*artifact.stored_params, *artifact.manifest.random_params) if name in params]
    return [_weight_row(params[name]) for name in names]


def _weight_row(param: Buffer) -> WeightRow:
    shape = [evaluate(extent, {}) for extent in param.shape]
    return WeightRow(
        param.name, param.dtype, " x ".join(map(str, shape)), math.prod(shape) * numpy_dtype(param.dtype).itemsize
    )


def memory_rows(artifact: Artifact, target: str, plan: Plan, given: Mapping[str, int]) -> list[MemoryRow]:
    """Return what serving with one target keeps in memory: weights, KV cache, arenas."""
    kv = artifact.target(target).kv
    pages = kv.pages(artifact.manifest.max_context)
    rows = [
        MemoryRow(
            "weights, made up at load" if artifact.manifest.random_params else "weights (mapped from the files)",
            sum(row.bytes for row in weight_rows(artifact, plan)),
        ),
        MemoryRow("KV cache, one token", kv.bytes_per_page // kv.page_size),
        MemoryRow(f"KV cache, one page of {kv.page_size} tokens", kv.bytes_per_page),
        MemoryRow(f"KV cache, a full context of {artifact.manifest.max_context} tokens", pages * kv.bytes_per_page),
        MemoryRow("scratch, each thread", artifact.target(target).scratch_bytes),
    ]
    for name, entry in plan.entries.items():
        dims = decode_dims(entry, kv.page_size, given)
        shown_dims = " ".join(f"{dim}={value}" for dim, value in dims.items())
        label = f"arena of @{name} at {shown_dims}"
        rows.append(MemoryRow(label, evaluate(entry.arena_bytes, dims), str(entry.arena_bytes)))
    return rows


def launch_rows(plan: Plan, page_size: int, given: Mapping[str, int]) -> list[LaunchRow]:
    """Return the kernel calls of each entry in the order of execution."""
    rows = []
    for name, entry in plan.entries.items():
        dims = decode_dims(entry, page_size, given)
        rows += [
            LaunchRow(
                entry=name,
                number=number,
                kernel=launch.kernel,
                tiles=evaluate(launch.tiles, dims),
                location=launch.location,
                operands=", ".join(launch.operands),
            )
            for number, launch in enumerate(running(entry, dims))
        ]
    return rows
