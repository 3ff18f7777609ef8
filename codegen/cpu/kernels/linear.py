"""Which groups are linear layers on packed weights: a linear with its norm before and its epilogue after."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.linear_spec import LinearSpec, Weight
from warploom.codegen.cpu.kernels.quads import GROUP, QuadFormat
from warploom.codegen.epilogue import read_epilogue
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.columns import take_columns
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.patterns import has_row_scales, weight_operands
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

KIND = "linear"
ACTIVATIONS = {"dtype": "i8", "group": GROUP, "scale_dtype": "f32"}
FP8 = {"dtype": "f8e4m3", "group": 0, "scale_dtype": "f32"}
WEIGHTS: dict[DType, Weight] = {DType.F32: "f32", DType.BF16: "bf16", DType.I8: "i8"}


def match(group: Function) -> Match | str:
    """The kernel of a linear with packed weights, its norm and its epilogue, or why there is none."""
    (hero,) = (op for op in group.ops if is_op(op, linear, quantized_linear, scaled_linear))
    attrs = linear.attrs_of(hero)
    epilogue = _refusal(hero, attrs["layout"]) or read_epilogue(group, hero, hero.results[0])
    if isinstance(epilogue, str):
        return epilogue
    if attrs["layout"].endswith("_pair") != (epilogue.kind == "swiglu"):
        return f"layout {attrs['layout']} does not fit epilogue {epilogue.kind}"
    numbers = producer(hero.operands[0], quantize, quantize_static)
    known = producer(hero.operands[0], quantize_static)
    static_scale = [] if known is None else [known.operands[1]]
    x = hero.operands[0] if numbers is None else numbers.operands[0]
    norm = producer(x, rms_norm)
    gains = [] if norm is None else [norm.operands[1]]
    x = x if norm is None else norm.operands[0]
    take = producer(x, take_columns)
    if len(group.ops) != 1 + (take is not None) + (norm is not None) + (numbers is not None) + epilogue.ops:
        return f"takes an order, a norm, a linear and an epilogue, not {', '.join(op.name for op in group.ops)}"
    if any(type_of(gain).dtype is not DType.F32 for gain in gains):
        return f"the norm's weight must be f32; here {type_of(gains[0])}"
    orders = [] if take is None else [take.operands[1]]
    x = x if take is None else take.operands[0]
    if orders and not attrs["layout"].startswith("quad"):
        return f"rows are ordered for weights in quads; here {attrs['layout']}"
    *rows, k = type_of(x).shape
    assert isinstance(k, int)
    eps = None if norm is None else rms_norm.attrs_of(norm)["eps"]
    weight = _weight(hero, attrs["layout"])
    spec = LinearSpec(attrs["n"], k, weight, eps, epilogue.kind, bool(static_scale), _groups(hero), bool(orders))
    read = [x, *weight_operands(hero), *static_scale, *orders, *gains, *epilogue.operands.values()]
    operands = (*(input_slot(group, value) for value in read), result_slot(group, epilogue.result))
    return Match(spec, operands, {"T": str(product(rows))})


def _refusal(hero: mlir.Operation, layout: str) -> str | None:
    """Why no kernel reads the weight of a linear."""
    matrix, *sides = map(type_of, weight_operands(hero))
    if not is_op(hero, scaled_linear):
        if layout.startswith("panel") and (_groups(hero) or (matrix.dtype in WEIGHTS and has_row_scales(hero))):
            return None
        wanted = f"{', '.join(WEIGHTS)} in panels with scales per row"
        return f"takes weights of {wanted}; here {matrix}, {layout}, {len(sides)} scales or offsets"
    if matrix.dtype is DType.F8 and (numbers := producer(hero.operands[0], quantize_static)) is not None:
        known = numbers.operands[1] == hero.operands[1] and quantize_static.attrs_of(numbers) == {"dtype": "f8e4m3"}
        return _refuse_f8(hero, layout) if known else "x must be rounded on the scale that the product reads"
    numbers, form = producer(hero.operands[0], quantize), FP8 if matrix.dtype is DType.F8 else ACTIVATIONS
    if numbers is None or quantize.attrs_of(numbers) != form:
        return f"x must be quantized in the group, as {form}"
    if matrix.dtype is DType.F8:
        return _refuse_f8(hero, layout)
    k, scale = static(type_of(hero.operands[0]).shape[-1]), sides[0]
    if not layout.startswith("quad") or scale.dtype is DType.BF16 or k % (GROUP * static(scale.shape[1])):
        return f"takes quads with f32 or f16 scales for {GROUP} columns or a multiple; here {matrix}, {layout}, {scale}"
    return None


def _groups(hero: mlir.Operation) -> int:
    """How many scales a column of f8 has that is multiplied with x as it is; 0 if it is no such product."""
    matrix, *sides = map(type_of, weight_operands(hero))
    if is_op(hero, scaled_linear) or matrix.dtype is not DType.F8 or len(sides) != 1 or sides[0].dtype is not DType.F32:
        return 0
    return static(sides[0].shape[1])


def _refuse_f8(hero: mlir.Operation, layout: str) -> str | None:
    return None if layout.startswith("panel") and has_row_scales(hero) else "f8 must lie in panels, scaled by row"


def _weight(hero: mlir.Operation, layout: str) -> Weight | QuadFormat:
    """What the weight of a linear that is not refused is made of."""
    matrix, *sides = map(type_of, weight_operands(hero))
    if not layout.startswith("quad"):
        return "f8e4m3" if matrix.dtype is DType.F8 else WEIGHTS[matrix.dtype]
    k, scale = static(type_of(hero.operands[0]).shape[-1]), sides[0]
    return QuadFormat(k, layout.startswith("quad4"), static(scale.shape[1]), scale.dtype.value, len(sides) > 1)
