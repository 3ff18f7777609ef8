"""Which groups are linear layers on packed weights: a linear with its norm before and its epilogue after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mlir.ir as mlir

from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.groups import input_slot, result_slot
from warploom.codegen.cpu.kernels.packed_linear import LinearSpec, Weight
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantization import quantized_linear
from warploom.ir.patterns import feeds_swiglu, has_row_scales
from warploom.ir.rewrite import defining_op, is_op, producer
from warploom.ir.types import DType, type_of

KIND = "linear"
WEIGHTS: dict[DType, Weight] = {DType.F32: "f32", DType.BF16: "bf16", DType.I8: "i8"}


def match(group: Function) -> Match | str:
    """The kernel of a linear with packed weights, its norm and its epilogue, or why there is none."""
    (hero,) = (op for op in group.ops if is_op(op, linear, quantized_linear))
    x, weight, *scale = hero.operands
    attrs, type_ = linear.attrs_of(hero), type_of(weight)
    if not attrs["layout"].startswith("panel") or not has_row_scales(hero):
        return f"takes weights in panels with scales per row; here {type_}, {attrs['layout']}"
    if type_.dtype not in WEIGHTS:
        return f"weights must be {', '.join(WEIGHTS)}; here {type_.dtype}"
    norm = producer(x, rms_norm)
    epilogue = _epilogue(group, hero)
    if isinstance(epilogue, str):
        return epilogue
    if (attrs["layout"] == "panel_pair") != (epilogue.kind == "swiglu"):
        return f"layout {attrs['layout']} does not fit epilogue {epilogue.kind}"
    if len(group.ops) != 1 + (norm is not None) + epilogue.ops:
        return f"takes a norm, a linear and an epilogue, not {', '.join(op.name for op in group.ops)}"
    if norm is not None:
        x, gain = norm.operands
        if type_of(gain).dtype is not DType.F32:
            return f"the norm's weight must be f32; here {type_of(gain)}"
    *rows, k = type_of(x).shape
    assert isinstance(k, int)
    eps = None if norm is None else rms_norm.attrs_of(norm)["eps"]
    spec = LinearSpec(attrs["n"], k, WEIGHTS[type_.dtype], eps, epilogue.kind)
    read = [x, weight, *scale, *([] if norm is None else [norm.operands[1]]), *epilogue.operands]
    operands = (*(input_slot(group, value) for value in read), result_slot(group, epilogue.result))
    return Match(spec, operands, {"T": str(product(rows))})


@dataclass(frozen=True, slots=True)
class _Epilogue:
    """What follows the hero: how many ops, which further operands, and the value that the group returns."""

    kind: Literal["residual", "swiglu"] | None
    ops: int
    operands: tuple[mlir.Value, ...]
    result: mlir.Value


def _epilogue(group: Function, hero: mlir.Operation) -> _Epilogue | str:
    (result,) = group.results.values()
    last, y = defining_op(result), hero.results[0]
    if result == y:
        return _Epilogue(None, 0, (), result)
    if last is not None and is_op(last, add) and y in (values := list(last.operands)):
        residual = values[1 - values.index(y)]
        return _Epilogue("residual", 1, (residual,), result) if residual != y else "it adds the product to itself"
    if is_op(last, swiglu) and feeds_swiglu(hero):
        return _Epilogue("swiglu", 3, (), result)
    return f"no epilogue for {last.name if last is not None else 'an input'}"
