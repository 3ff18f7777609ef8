"""Which groups are linear layers, and the kernels that compute one for every number of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Guard, Match, Slot, Step, Temp, Variant
from warploom.codegen.cuda.kernels.gemm import GemmSpec
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm
from warploom.codegen.cuda.kernels.rms_norm import RmsNormSpec
from warploom.codegen.cuda.kernels.skinny_gemm import SkinnySpec
from warploom.codegen.cuda.kernels.tiles import Choice, GemvTile, SkinnyTile, Tile
from warploom.codegen.cuda.tuning import choices_for
from warploom.errors import CompileError
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantization import quantized_linear
from warploom.ir.patterns import feeds_swiglu
from warploom.ir.rewrite import defining_op, is_op, producer
from warploom.ir.types import DType, tensor, type_of
from warploom.runtime.expr import Expr

KIND = "linear"
NO_END = 2**31 - 1
FLOATS = (DType.BF16, DType.F32)
Slots = dict[str, Slot]


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a linear with a bf16 weight in rows, its norm and its epilogue, or why there are none."""
    found = _read(group)
    if isinstance(found, str):
        return found
    problem, slots, rows = found
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
    """The norm first, where the kernel does not do it, then the kernel."""
    steps = []
    if problem.norm is not None and not choice.fused_norm:
        normed = memory.slot("normed", Temp(tensor((str(rows), problem.k), DType.BF16)))
        norm = RmsNormSpec(problem.k, problem.x, problem.norm.gain, DType.BF16, problem.norm.eps, target.has_tma)
        steps.append(Step(norm, (slots["x"], slots["gain"], normed), {"T": rows}))
        problem, slots = problem.without_norm(), slots | {"x": normed}
    _check_end(problem, choice)
    spec = linear_spec(problem, choice.tile, target)
    if isinstance(spec, SkinnySpec):
        slots = slots | _extra_slots(spec, slots, choice, memory)
    return [*steps, Step(spec, tuple(slots[operand.name] for operand in spec.operands), {"T": rows})]


def _check_end(problem: LinearProblem, choice: Choice) -> None:
    """Splits need memory for every tile, and a GEMV holds all tokens."""
    end, tile = choice.up_to, choice.tile
    unbounded = isinstance(tile, SkinnyTile) and tile.splits > 1 and end is None
    if unbounded or (isinstance(tile, GemvTile) and (end is None or end > tile.block_t)):
        raise CompileError(
            f"a choice for {problem.name} is for more tokens than its tile can take", found=f"{tile} up to {end}"
        )


def linear_spec(problem: LinearProblem, tile: Tile, target: CudaTarget) -> GemvSpec | SkinnySpec | GemmSpec:
    """The kernel of a problem with a tile."""
    if isinstance(tile, GemvTile):
        return GemvSpec(problem, tile, target.has_tma)
    if isinstance(tile, SkinnyTile):
        return SkinnySpec(problem, tile, target.has_tma)
    return GemmSpec(problem, tile, target.has_tma)


def _extra_slots(spec: SkinnySpec, slots: Slots, choice: Choice, memory: _Temps) -> Slots:
    extra = {"w_rows": slots["w"]}
    if spec.tile.splits > 1:
        assert choice.up_to is not None
        tiles = spec.tiles(choice.up_to)
        extra["partials"] = memory.slot("partials", Temp(tensor((spec.tile.splits, tiles, spec.part), DType.F32)))
        extra["counters"] = memory.slot("counters", Temp(tensor((tiles,), DType.I32), zeroed=True))
    return extra


def _read(group: Function) -> tuple[LinearProblem, Slots, Expr] | str:
    """What a group computes, where its operands are, and its number of tokens."""
    (hero,) = (op for op in group.ops if is_op(op, linear, quantized_linear))
    if is_op(hero, quantized_linear):
        return "quantized weights are not taken yet"
    x, weight = hero.operands
    attrs = linear.attrs_of(hero)
    if attrs["layout"] != "row" or type_of(weight).dtype is not DType.BF16:
        return f"the weight must be bf16 in rows; here {type_of(weight)}, {attrs['layout']}"
    epilogue = _epilogue(group, hero)
    if isinstance(epilogue, str):
        return epilogue
    before = _before(x)
    if len(group.ops) != 1 + before.ops + epilogue.ops:
        return f"takes a norm, a linear and an epilogue, not {', '.join(op.name for op in group.ops)}"
    *rows, k = type_of(before.x).shape
    dtypes = type_of(before.x).dtype, type_of(epilogue.result).dtype
    if not isinstance(k, int) or not all(dtype in FLOATS for dtype in dtypes):
        return f"x must be bf16 or f32 with a static row; here {type_of(before.x)} to {type_of(epilogue.result)}"
    problem = LinearProblem(attrs["n"], k, *dtypes, before.norm, epilogue.kind)
    values = {"x": before.x, "w": weight} | before.operands | epilogue.operands
    inputs = list(group.inputs.values())
    slots = {name: Slot("input", inputs.index(value)) for name, value in values.items()}
    return problem, slots | {"out": Slot("result", 0)}, str(product(rows))


@dataclass(frozen=True, slots=True)
class _Before:
    """What comes before the hero: how many ops, the x that they start from, the norm and its operand."""

    x: mlir.Value
    ops: int
    norm: Norm | None
    operands: dict[str, mlir.Value]


def _before(x: mlir.Value) -> _Before:
    """A cast from bf16, or a norm."""
    if (operation := producer(x, cast)) is not None and type_of(operation.operands[0]).dtype is DType.BF16:
        return _Before(operation.operands[0], 1, None, {})
    if (operation := producer(x, rms_norm)) is not None:
        source, gain = operation.operands
        return _Before(source, 1, Norm(rms_norm.attrs_of(operation)["eps"], type_of(gain).dtype), {"gain": gain})
    return _Before(x, 0, None, {})


@dataclass(frozen=True, slots=True)
class _Epilogue:
    """What follows the hero: how many ops, which further operands, and the value that the group returns."""

    kind: Literal["residual", "swiglu"] | None
    ops: int
    operands: dict[str, mlir.Value]
    result: mlir.Value


def _epilogue(group: Function, hero: mlir.Operation) -> _Epilogue | str:
    (result,) = group.results.values()
    last, y = defining_op(result), hero.results[0]
    if result == y:
        return _Epilogue(None, 0, {}, result)
    if last is not None and is_op(last, add) and y in (values := list(last.operands)):
        residual = values[1 - values.index(y)]
        if residual == y:
            return "it adds the product to itself"
        return _Epilogue("residual", 1, {"residual": residual}, result)
    if is_op(last, swiglu) and feeds_swiglu(hero):
        return _Epilogue("swiglu", 3, {}, result)
    return f"no epilogue for {last.name if last is not None else 'an input'}"
