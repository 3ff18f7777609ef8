"""The kernels that compute a linear layer for every number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Slot, Step, Temp, Variant
from warploom.codegen.cuda.kernels.gemm import GemmSpec
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear_group import read_group
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.mixed_gemm import MixedSpec
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec
from warploom.codegen.cuda.kernels.rms_norm import RmsNormSpec
from warploom.codegen.cuda.kernels.round_rows import RoundRowsSpec
from warploom.codegen.cuda.kernels.segment_gemv import SegmentSpec
from warploom.codegen.cuda.kernels.skinny_gemm import SkinnySpec
from warploom.codegen.cuda.kernels.smaller_tiles import smaller
from warploom.codegen.cuda.kernels.stream_gemv import StreamSpec
from warploom.codegen.cuda.kernels.tiles import (
    Choice,
    GemmTile,
    GemvTile,
    MixedTile,
    RingTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
    Tile,
    WarpTile,
)
from warploom.codegen.cuda.kernels.unpack_weight import UnpackSpec
from warploom.codegen.cuda.kernels.warp_gemm import WarpGemmSpec, warps_take
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.temps import Temps
from warploom.codegen.cuda.tuning import choices_for
from warploom.codegen.cuda.variants import consecutive
from warploom.errors import CompileError
from warploom.ir.function import Function
from warploom.ir.types import DType, tensor

KIND = "linear"
LinearSpec: TypeAlias = (
    GemvSpec | StreamSpec | SegmentSpec | SkinnySpec | RingSpec | MixedSpec | GemmSpec | WarpGemmSpec
)


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a linear, what comes before it and its epilogue, or why there are none."""
    found = read_group(group)
    if isinstance(found, str):
        return found
    problem, scope = found
    reason = target.refuses(problem.weight.dtype)
    if reason is not None:
        return reason
    return lower(problem, scope, choices_for(problem, target), target)


def lower(
    problem: LinearProblem,
    scope: Scope,
    choices: tuple[Choice, ...],
    target: CudaTarget,
    temps: Temps | None = None,
) -> Match:
    """The launches of a problem.

    Args:
        scope: of the problem's operands; T is the number of tokens.
        choices: by rising `up_to`, the last without end.
        temps: what the group has already.
    """
    temps = Temps() if temps is None else temps
    ranges = consecutive(scope.dims["T"], (choice.up_to for choice in choices), first=1)
    variants = [
        Variant(tuple(_steps(problem, scope, choice, temps, target)), when)
        for choice, when in zip(choices, ranges, strict=True)
    ]
    return Match(tuple(variants), temps.all)


def _steps(problem: LinearProblem, scope: Scope, choice: Choice, temps: Temps, target: CudaTarget) -> Iterator[Step]:
    """Norm, rounding and unpacking first, where the kernel does not do them, then the kernel."""
    if (problem.rounded or problem.norm is not None) and not choice.fused_norm:
        first, scope = _rows_first(problem, scope, temps, target)
        yield first
        problem = problem.prepared()
    if isinstance(choice.tile, GemmTile) and not problem.is_plain:
        wide = temps.slot("wide", Temp(tensor((problem.n, problem.k), DType.BF16)))
        unpack = UnpackSpec(problem.n, problem.k, problem.weight, target.has_tma)
        yield scope.with_slots({"wide": wide}).step(unpack)
        problem, scope = problem.unpacked(), scope.with_slots({"w": wide})
    _check_end(problem, choice)
    spec = fitting_spec(problem, choice.tile, target)
    if isinstance(spec, SkinnySpec | RingSpec):
        scope = scope.with_slots(_extra_slots(spec, scope.slots["w"], choice, temps))
    yield scope.step(spec)


def _rows_first(problem: LinearProblem, scope: Scope, temps: Temps, target: CudaTarget) -> tuple[Step, Scope]:
    """The launch that norms and rounds x, and the scope in which x is what it makes."""
    k, norm, rows = problem.k, problem.norm, scope.dims["T"]
    spec: CudaKernelSpec
    if problem.rounded:
        spec = RoundRowsSpec(k, problem.x, norm, target.has_tma)
        made = {
            "out": temps.slot("rounded", Temp(tensor((rows, k), DType.F8))),
            "out_scale": temps.slot("x_scale", Temp(tensor((rows,), DType.F32))),
        }
    else:
        assert norm is not None
        spec = RmsNormSpec(k, problem.x, norm.gain, DType.BF16, norm.eps, target.has_tma)
        made = {"out": temps.slot("normed", Temp(tensor((rows, k), DType.BF16)))}
    names = {"out": "x", "out_scale": "x_scale"}
    return scope.with_slots(made).step(spec), scope.with_slots({names[name]: slot for name, slot in made.items()})


def _check_end(problem: LinearProblem, choice: Choice) -> None:
    """Splits need memory for every tile, and a GEMV holds all tokens."""
    end, tile = choice.up_to, choice.tile
    unbounded = isinstance(tile, SkinnyTile | RingTile) and tile.splits > 1 and end is None
    most = tile.block_t if isinstance(tile, GemvTile) else 1 if isinstance(tile, StreamTile | SegmentTile) else None
    if unbounded or (most is not None and (end is None or end > most)):
        raise CompileError(
            f"a choice for {problem.name} is for more tokens than its tile can take", found=f"{tile} up to {end}"
        )


def fitting_spec(problem: LinearProblem, tile: Tile, target: CudaTarget) -> LinearSpec:
    """The kernel of a problem with a tile, or with the next smaller one that is not known to need too much."""
    spec, less = linear_spec(problem, tile, target), smaller(problem, tile)
    while spec.name in target.excluded and less is not None:
        spec, less = linear_spec(problem, less, target), smaller(problem, less)
    return spec


def linear_spec(problem: LinearProblem, tile: Tile, target: CudaTarget) -> LinearSpec:
    """The kernel of a problem with a tile."""
    if isinstance(tile, StreamTile):
        return StreamSpec(problem, tile, target.has_tma)
    if isinstance(tile, GemvTile):
        return GemvSpec(problem, tile, target.has_tma)
    if isinstance(tile, SegmentTile):
        return SegmentSpec(problem, tile)
    if isinstance(tile, SkinnyTile):
        return SkinnySpec(problem, tile, target.has_tma)
    if isinstance(tile, RingTile):
        return RingSpec(problem, tile)
    if isinstance(tile, MixedTile):
        return MixedSpec(problem, tile, target.has_tma)
    if isinstance(tile, WarpTile):
        if not warps_take(problem):
            raise CompileError(f"{problem.name} has no kernel with this tile", found=f"{tile}", fix="tune it again")
        return WarpGemmSpec(problem, tile)
    return GemmSpec(problem, tile, target.has_tma)


def _extra_slots(spec: SkinnySpec | RingSpec, weight: Slot, choice: Choice, temps: Temps) -> dict[str, Slot]:
    extra = {"w_rows": weight}  # once more, as an address to prefetch
    if spec.tile.splits > 1:
        assert choice.up_to is not None
        tiles = spec.tiles(choice.up_to)
        extra["partials"] = temps.slot("partials", Temp(tensor((spec.tile.splits, tiles, spec.part), DType.F32)))
        extra["counters"] = temps.slot("counters", Temp(tensor((tiles,), DType.I32), zeroed=True))
    return extra
