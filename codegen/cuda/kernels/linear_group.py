"""What a group of a linear layer computes, read from its ops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlir.ir as mlir

from warploom.codegen.cuda.kernel import Slot
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.epilogue import Epilogue, read_epilogue
from warploom.codegen.groups import input_slot
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.patterns import bias_of, weight_operands
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

FLOATS = (DType.BF16, DType.F32)


def read_group(group: Function) -> tuple[LinearProblem, Scope] | str:
    """The problem, and where its operands are; or why it is none that kernels compute."""
    (hero,) = (op for op in group.ops if is_op(op, linear, quantized_linear, scaled_linear))
    weight = read_weight(hero)
    if isinstance(weight, str):
        return weight
    epilogue = _epilogue(group, hero)
    if isinstance(epilogue, str):
        return epilogue
    before = _before(hero)
    if len(group.ops) != 1 + before.ops + epilogue.ops:
        return f"takes a norm, a rounding, a linear and an epilogue, not {', '.join(op.name for op in group.ops)}"
    reason = _refusal(hero, before, weight, epilogue)
    if reason is not None:
        return reason
    *rows, k = type_of(before.x).shape
    assert isinstance(k, int)
    problem = LinearProblem(
        n=linear.attrs_of(hero)["n"],
        k=k,
        x=type_of(before.x).dtype,
        out=type_of(epilogue.result).dtype,
        norm=before.norm,
        epilogue=epilogue.kind,
        weight=weight,
        rounded=before.rounded,
        bias=type_of(epilogue.operands["bias"]).dtype if "bias" in epilogue.operands else None,
    )
    weights = dict(zip(("w", "scale", "offset"), weight_operands(hero), strict=False))
    values = {"x": before.x} | weights | before.operands | epilogue.operands
    slots = {name: input_slot(group, value) for name, value in values.items()}
    return problem, Scope(slots | {"out": Slot("result", 0)}, {"T": str(product(rows))})


def read_weight(hero: mlir.Operation, floats: tuple[DType, ...] = (DType.BF16,)) -> Weight | str:
    """The format of the weight of a linear or an embedding, or why kernels do not take it."""
    matrix, *sides = weight_operands(hero)
    layout, dtype = linear.attrs_of(hero)["layout"], type_of(matrix).dtype
    if (layout, dtype) == ("row4", DType.I8):
        dtype = DType.I4
    elif layout != "row" or dtype not in (*floats, DType.I8, DType.F8):
        wanted = ", ".join((*floats, DType.I8, DType.F8))
        return f"the weight must be {wanted} in rows, or of four bits in row4; here {type_of(matrix)}, {layout}"
    if not sides:
        return Weight(dtype)
    groups = type_of(sides[0]).shape[1]
    assert isinstance(groups, int)
    return Weight(dtype, groups, type_of(sides[0]).dtype, offset=len(sides) > 1)


@dataclass(frozen=True, slots=True)
class _Before:
    """What comes before the hero: how many ops, the x that they start from, the norm, the rounding, their operands."""

    x: mlir.Value
    ops: int
    norm: Norm | None
    rounded: bool
    operands: dict[str, mlir.Value]


def _before(hero: mlir.Operation) -> _Before:
    """A norm, rounded to bf16 if it is of f32, or a cast from bf16; then a rounding to f8."""
    x = hero.operands[0]
    operands: dict[str, mlir.Value] = {}
    ops, norm, rounded = 0, None, False
    if is_op(hero, scaled_linear):
        rounding = producer(x, quantize)
        if rounding is None:
            operands["x_scale"] = hero.operands[1]
        elif list(rounding.results) == list(hero.operands)[:2]:
            x, ops, rounded = rounding.operands[0], 1, True
    if (operation := producer(x, cast)) is not None and type_of(operation.operands[0]).dtype is DType.BF16:
        return _Before(operation.operands[0], ops + 1, norm, rounded, operands)
    if (narrowing := producer(x, cast)) is not None and producer(narrowing.operands[0], rms_norm) is not None:
        x, ops = narrowing.operands[0], ops + 1  # kernels round to bf16 what they multiply
    if (operation := producer(x, rms_norm)) is not None:
        x, operands["gain"] = operation.operands
        norm = Norm(rms_norm.attrs_of(operation)["eps"], type_of(operands["gain"]).dtype)
        ops += 1
    return _Before(x, ops, norm, rounded, operands)


def _refusal(hero: mlir.Operation, before: _Before, weight: Weight, epilogue: Epilogue) -> str | None:
    """Why no kernel computes it."""
    x, out = type_of(before.x), type_of(epilogue.result).dtype
    dtypes = (DType.F8,) if "x_scale" in before.operands else FLOATS
    if not isinstance(x.shape[-1], int) or x.dtype not in dtypes or out not in FLOATS:
        return f"x must be bf16 or f32 with a static row; here {x} to {out}"
    if not is_op(hero, scaled_linear):
        return None
    scales = type_of(hero.operands[1])
    if scales.dtype is not DType.F32 or scales.rank != x.rank or scales.shape[-1] != 1:
        return f"rounded activations need one f32 scale for every token; here {scales}"
    if type_of(hero.operands[0]).dtype is not DType.F8 or weight.dtype is not DType.F8:
        return "rounded activations and their weight must both be f8"
    return None if weight.groups == 1 and not weight.offset else "a weight of f8 must have one scale for every row"


def _epilogue(group: Function, hero: mlir.Operation) -> Epilogue | str:
    """A bias, then what both targets know."""
    bias = bias_of(hero)
    if bias is None or not set(bias.ops).issubset(group.ops):
        return read_epilogue(group, hero, hero.results[0])
    found = read_epilogue(group, hero, bias.result)
    if isinstance(found, str):
        return found
    return replace(found, ops=found.ops + len(bias.ops), operands={"bias": bias.bias, **found.operands})
