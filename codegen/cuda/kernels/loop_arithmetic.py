"""The elementwise ops of the dialect as Triton expressions, with the rounding of each dtype.

In registers f32, bf16 and f16 are all f32; the result of an op of a narrow dtype is rounded to it at once, as the
interpreter does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from warploom.ir.types import DType

TRITON = {
    DType.F32: "tl.float32",
    DType.F16: "tl.float16",
    DType.BF16: "tl.bfloat16",
    DType.I1: "tl.int1",
    DType.I8: "tl.int8",
    DType.I32: "tl.int32",
    DType.I64: "tl.int64",
}

UNARY = {
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "1.0 / tl.sqrt_rn({0})",
    "tanh": "tanh({0})",
    "erf": "tl.erf({0})",
    "logistic": "tl.sigmoid({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "floor": "tl.floor({0})",
    "round": "round_even({0})",
    "not": "~{0}",
}

BINARY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "pow": "tl.exp2({1} * tl.log2({0}))",
    "max": "larger({0}, {1})",
    "min": "smaller({0}, {1})",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "shl": "{0} << {1}",
    "shr": "({0}.to(tl.uint32) >> {1}.to(tl.uint32)).to(tl.int32)",
}

COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def register_type(dtype: DType) -> str:
    """Triton's type of values of a dtype in registers."""
    return "tl.float32" if dtype.is_float else TRITON[dtype]


def number(value: float, dtype: DType) -> str:
    """The number that `value` is when stored as `dtype`."""
    stored = np.asarray(value).astype(dtype.numpy)
    if not dtype.is_float:
        return str(int(stored))
    text = repr(float(stored))
    return f'float("{text}")' if text in ("inf", "-inf", "nan") else text


def scalar(value: float, dtype: DType) -> str:
    """That number as a value of no dimensions."""
    return f"tl.full((), {number(value, dtype)}, {register_type(dtype)})"


def lowest(dtype: DType) -> str:
    """The identity of max."""
    return number(-np.inf if dtype.is_float else -_half_range(dtype), dtype)


def highest(dtype: DType) -> str:
    """The identity of min."""
    return number(np.inf if dtype.is_float else _half_range(dtype) - 1, dtype)


def _half_range(dtype: DType) -> int:
    return 1 << (dtype.numpy.itemsize * 8 - 1)


def rounded(expression: str, dtype: DType) -> str:
    """An f32 expression rounded to a float dtype; others pass through."""
    if dtype in (DType.BF16, DType.F16):
        return f"({expression}).to({TRITON[dtype]}).to(tl.float32)"
    return expression


def elementwise(
    op: str, operands: Sequence[str], source: DType, attributes: Mapping[str, Hashable], dtype: DType
) -> str:
    """The result of dtype `dtype` of an op of `ir/ops/elementwise.py`, whose (last) operand has dtype `source`."""
    match op:
        case "cast":
            return _convert(operands[0], source, dtype)
        case "bitcast":
            return f"{operands[0]}.to({TRITON[dtype]}, bitcast=True)"
        case "compare":
            return f"{operands[0]} {COMPARE[str(attributes['direction'])]} {operands[1]}"
        case "select":
            return f"tl.where({', '.join(operands)})"
    template = UNARY[op] if len(operands) == 1 else BINARY[op]
    return rounded(template.format(*operands), dtype)


def _convert(value: str, source: DType, dtype: DType) -> str:
    """Floats truncate to integers, booleans are 0 and 1, anything but 0 is true."""
    if dtype is DType.I1:
        return value if source is DType.I1 else f"{value} != 0"
    if dtype.is_float:
        return rounded(value if source.is_float else f"{value}.to(tl.float32)", dtype)
    if source.is_float and dtype is DType.I8:
        return f"{value}.to(tl.int32).to(tl.int8)"
    return f"{value}.to({TRITON[dtype]})"
