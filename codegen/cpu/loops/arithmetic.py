"""The elementwise ops of the dialect on values of the kernel kit, with the rounding of each dtype.

In registers f32, bf16 and f16 are all f32; the result of an op of a narrow dtype is rounded to it at once, as the
interpreter does. Booleans are i1 in registers and bytes in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mlir.dialects import arith
from mlir.dialects import math as mlir_math

from warploom.codegen.cpu import math as kernel_math
from warploom.codegen.cpu.memory import Ptr, narrow_bf16, narrow_f8, narrow_f16, widen_bf16, widen_f8, widen_f16
from warploom.codegen.cpu.values import (
    Value,
    absolute,
    bitcast,
    broadcast,
    constant,
    convert_int,
    mlir_type,
    select,
    sqrt,
    to_f32,
    to_i32,
)
from warploom.ir.ops.random import PARITY, ROTATIONS
from warploom.ir.types import DType


def register_element(dtype: DType) -> str:
    """The kit's element type of values of `dtype`."""
    return "f32" if dtype.is_float else dtype.value


def memory_element(dtype: DType) -> str:
    """The kit's element type of buffers of `dtype`."""
    return "i8" if dtype is DType.I1 else dtype.value


def read(pointer: Ptr, offset: Value, lanes: int, dtype: DType) -> Value:
    """One element, or `lanes` neighbours."""
    loaded = pointer.load(offset, lanes)
    return loaded.ne(0) if dtype is DType.I1 else loaded


def write(pointer: Ptr, offset: Value, value: Value, lanes: int) -> None:
    """Store a value in `lanes` neighbours; rounds to a narrow dtype."""
    wide = broadcast(value, lanes)
    pointer.store(offset, convert_int(wide, "i8", signed=False) if wide.element == "i1" else wide)


def number(value: float, dtype: DType) -> Value:
    """The scalar constant that `value` is when stored as `dtype`."""
    stored: Any = np.asarray(value).astype(dtype.numpy)
    return constant(float(stored) if dtype.is_float else int(stored), register_element(dtype))


def lowest(dtype: DType) -> Value:
    """The identity of max."""
    return constant(-np.inf, "f32") if dtype.is_float else constant(-_half_range(dtype), dtype.value)


def highest(dtype: DType) -> Value:
    """The identity of min."""
    return constant(np.inf, "f32") if dtype.is_float else constant(_half_range(dtype) - 1, dtype.value)


def _half_range(dtype: DType) -> int:
    return 1 << (dtype.numpy.itemsize * 8 - 1)


def rounded(value: Value, dtype: DType) -> Value:
    """An f32 value rounded to a float dtype; others pass through."""
    if dtype is DType.BF16:
        return widen_bf16(narrow_bf16(value))
    if dtype is DType.F8:
        return widen_f8(narrow_f8(value))
    return widen_f16(narrow_f16(value)) if dtype is DType.F16 else value


def convert(value: Value, dtype: DType) -> Value:
    """`cast`: floats truncate to integers, booleans are 0 and 1, anything but 0 is true."""
    if dtype is DType.I1:
        return value if value.element == "i1" else value.ne(0)
    if dtype.is_float:
        return rounded(select(value, constant(1.0, "f32"), 0.0) if value.element == "i1" else to_f32(value), dtype)
    if value.is_float:
        return _truncate(value, dtype)
    return convert_int(value, dtype.value, signed=value.element != "i1")


def _truncate(value: Value, dtype: DType) -> Value:
    if dtype is DType.I64:
        return Value(arith.FPToSIOp(mlir_type("i64", value.lanes), value.ssa).result, "i64", value.lanes)
    return convert_int(to_i32(value), dtype.value)


def larger(x: Value, y: Value) -> Value:
    """max(x, y), NaN if either is."""
    kept = select(x > y, x, y)
    return select(x.ne(x), x, kept) if x.is_float else kept


def smaller(x: Value, y: Value) -> Value:
    """min(x, y), NaN if either is."""
    kept = select(x < y, x, y)
    return select(x.ne(x), x, kept) if x.is_float else kept


def _magnitude(x: Value) -> Value:
    return absolute(x) if x.is_float else select(x < 0, -x, x)


def _apply(op: Callable[..., Any]) -> Callable[[Value], Value]:
    return lambda x: Value(op(x.ssa).result, x.element, x.lanes)


UNARY: dict[str, Callable[[Value], Value]] = {
    "neg": lambda x: -x,
    "abs": _magnitude,
    "exp": kernel_math.exp,
    "log": kernel_math.log,
    "sqrt": sqrt,
    "rsqrt": kernel_math.rsqrt,
    "tanh": kernel_math.tanh,
    "erf": kernel_math.erf,
    "logistic": kernel_math.logistic,
    "sin": lambda x: kernel_math.sin_cos(x)[0],
    "cos": lambda x: kernel_math.sin_cos(x)[1],
    "floor": _apply(mlir_math.FloorOp),
    "round": _apply(mlir_math.RoundEvenOp),
    "not": lambda x: ~x,
}

BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: kernel_math.exp(y * kernel_math.log(x)),
    "max": larger,
    "min": smaller,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "shl": lambda x, y: x << y,
    "shr": lambda x, y: x >> y,
}

COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "eq": lambda x, y: x.eq(y),
    "ne": lambda x, y: x.ne(y),
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


def elementwise(op: str, operands: list[Value], attributes: dict[str, Any], dtype: DType) -> Value:
    """The result of dtype `dtype` of an op of `ir/ops/elementwise.py`."""
    match op:
        case "cast":
            return convert(operands[0], dtype)
        case "bitcast":
            return bitcast(operands[0], dtype.value)
        case "compare":
            return COMPARE[attributes["direction"]](*operands)
        case "select":
            return select(*operands)
    result = UNARY[op](*operands) if len(operands) == 1 else BINARY[op](*operands)
    return rounded(result, dtype)


def threefry(key: tuple[Value, Value], counter: tuple[Value, Value]) -> Value:
    """Word 0 of Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), i32 words."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    a, b = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            a = a + b
            b = ((b << rotation) | (b >> (32 - rotation))) ^ a
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + (group + 1)
    return a
