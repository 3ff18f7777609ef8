"""The kernels that compute a linear layer for every number of tokens."""

from __future__ import annotations

import math
from typing import TypeAlias

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Guard, Match, Slot, Step, Temp, Variant
from warploom.codegen.cuda.kernels.gemm import GemmSpec
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear_group import Slots, read_group
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
from warploom.codegen.cuda.tuning import choices_for
from warploom.errors import CompileError
from warploom.ir.function import Function
from warploom.ir.types import DType, tensor
from warploom.runtime.expr import Expr

KIND = "linear"
LinearSpec: TypeAlias = (
    GemvSpec | StreamSpec | SegmentSpec | SkinnySpec | RingSpec | MixedSpec | GemmSpec | WarpGemmSpec
)
NO_END = 2**31 - 1


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a linear, what comes before it and its epilogue, or why there are none."""
    found = read_group(group)
    if isinstance(found, str):
        return found
    problem, slots, rows = found
    reason = target.refuses(problem.weight.dtype)
    if reason is not None:
        return reason
    return lower(problem, slots, rows, choices_for(problem, target), target)


def lower(problem: LinearProblem, slots: Slots, rows: Expr, choices: tuple[Choice, ...], target: CudaTarget) -> Match:
    """The launches of a problem.

    Args:
        slots: of the problem's operands, by name.
        rows: number of tokens.
        choices: by rising `up_to`, the last without end.
    """
    memory = _Temps()
    variants, begin = [], 1
    for choice in choices:
        end = NO_END if choice.up_to is None else choice.up_to
        steps = tuple(_steps(problem, slots, rows, choice, memory, target))
        variants.append(Variant(steps, Guard(rows, begin, end)))
        begin = end + 1
    return Match(tuple(variants), memory.temps)


class _Temps:
    """Memory that the variants of a group share; each kind as large as the largest that is asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Temp] = {}

    def slot(self, name: str, temp: Temp) -> Slot:
        known = self._known.setdefault(name, temp)
        if known.type.is_static and known.type.resolve({}) != temp.type.resolve({}):
            self._known[name] = max(known, temp, key=lambda t: math.prod(t.type.resolve({})))
        return Slot("temp", list(self._known).index(name))

    @property
    def temps(self) -> tuple[Temp, ...]:
        return tuple(self._known.values())


def _steps(
    problem: LinearProblem, slots: Slots, rows: Expr, choice: Choice, memory: _Temps, target: CudaTarget
) -> list[Step]:
    """Norm, rounding and unpacking first, where the kernel does not do them, then the kernel."""
    steps = []
    if (problem.rounded or problem.norm is not None) and not choice.fused_norm:
        first, made = _rows_first(problem, slots, rows, memory, target)
        steps.append(first)
        problem, slots = problem.prepared(), slots | made
    if isinstance(choice.tile, GemmTile) and not problem.is_plain:
        unpack = UnpackSpec(problem.n, problem.k, problem.weight, target.has_tma)
        wide = memory.slot("wide", Temp(tensor((problem.n, problem.k), DType.BF16)))
        steps.append(Step(unpack, tuple({**slots, "wide": wide}[o.name] for o in unpack.operands), {}))
        problem, slots = problem.unpacked(), slots | {"w": wide}
    _check_end(problem, choice)
    spec = fitting_spec(problem, choice.tile, target)
    if isinstance(spec, SkinnySpec | RingSpec):
        slots = slots | _extra_slots(spec, slots, choice, memory)
    return [*steps, Step(spec, tuple(slots[operand.name] for operand in spec.operands), {"T": rows})]


def _rows_first(
    problem: LinearProblem, slots: Slots, rows: Expr, memory: _Temps, target: CudaTarget
) -> tuple[Step, Slots]:
    """The launch that norms and rounds x, and where its results are."""
    k, norm = problem.k, problem.norm
    inputs = (slots["x"],) if norm is None else (slots["x"], slots["gain"])
    spec: CudaKernelSpec
    if problem.rounded:
        spec = RoundRowsSpec(k, problem.x, norm, target.has_tma)
        made = {
            "x": memory.slot("rounded", Temp(tensor((rows, k), DType.F8))),
            "x_scale": memory.slot("x_scale", Temp(tensor((rows,), DType.F32))),
        }
    else:
        assert norm is not None
        spec = RmsNormSpec(k, problem.x, norm.gain, DType.BF16, norm.eps, target.has_tma)
        made = {"x": memory.slot("normed", Temp(tensor((rows, k), DType.BF16)))}
    return Step(spec, (*inputs, *made.values()), {"T": rows}), made


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


def _extra_slots(spec: SkinnySpec | RingSpec, slots: Slots, choice: Choice, memory: _Temps) -> Slots:
    extra = {"w_rows": slots["w"]}  # once more, as an address to prefetch
    if spec.tile.splits > 1:
        assert choice.up_to is not None
        tiles = spec.tiles(choice.up_to)
        extra["partials"] = memory.slot("partials", Temp(tensor((spec.tile.splits, tiles, spec.part), DType.F32)))
        extra["counters"] = memory.slot("counters", Temp(tensor((tiles,), DType.I32), zeroed=True))
    return extra
