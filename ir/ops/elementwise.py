"""Elementwise core ops: operands of one shape and dtype, no implicit broadcasting."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.types import ALL, BITS, FLOATS, INTS, STORED, DType, TensorType, tensor, type_of


class Unary(Op):
    """Base of ops that map each element of one tensor."""

    operands = (Operand("x", FLOATS),)

    def infer(self, x: TensorType) -> TensorType:
        """The type of the operand."""
        return x

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Any value of a fitting dtype."""
        return [choose.value(self.operands[0].dtypes)], {}


class PositiveUnary(Unary):
    """Base of unary ops that are defined for positive numbers."""

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A fresh positive input."""
        x = type_of(choose.value(self.operands[0].dtypes))
        return [choose.input(x, 0.25, 4.0)], {}


class Neg(Unary):
    """Negation."""

    name = "neg"
    operands = (Operand("x", FLOATS | INTS),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """-x."""
        return -x


class Abs(Unary):
    """Absolute value."""

    name = "abs"
    operands = (Operand("x", FLOATS | INTS),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """|x|."""
        return np.abs(x)


class Exp(Unary):
    """Natural exponential."""

    name = "exp"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """e^x."""
        return np.exp(x)


class Log(PositiveUnary):
    """Natural logarithm."""

    name = "log"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """ln x."""
        return np.log(x)


class Sqrt(PositiveUnary):
    """Square root."""

    name = "sqrt"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """x^(1/2)."""
        return np.sqrt(x)


class Rsqrt(PositiveUnary):
    """Reciprocal square root."""

    name = "rsqrt"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """x^(-1/2)."""
        return 1 / np.sqrt(x)


class Tanh(Unary):
    """Hyperbolic tangent."""

    name = "tanh"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """tanh x."""
        return np.tanh(x)


class Erf(Unary):
    """Gauss error function."""

    name = "erf"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """erf x."""
        return np.vectorize(math.erf, otypes=[x.dtype])(x)


class Logistic(Unary):
    """Logistic sigmoid."""

    name = "logistic"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """1 / (1 + e^-x), written so that it does not overflow."""
        small = np.exp(-np.abs(x))
        return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


class Sin(Unary):
    """Sine, argument in radians."""

    name = "sin"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """sin x."""
        return np.sin(x)


class Cos(Unary):
    """Cosine, argument in radians."""

    name = "cos"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """cos x."""
        return np.cos(x)


class Floor(Unary):
    """Largest integer not above."""

    name = "floor"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Rounds towards minus infinity."""
        return np.floor(x)


class Round(Unary):
    """Nearest integer, ties to even."""

    name = "round"

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """IEEE roundTiesToEven."""
        return np.rint(x)


class Not(Unary):
    """Bitwise complement; of booleans, negation."""

    name = "not"
    operands = (Operand("x", BITS),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """~x."""
        return ~x


class Cast(Op):
    """Change of dtype: floats to integers truncate, integers widen with sign, booleans are 0 and 1."""

    name = "cast"
    operands = (Operand("x", STORED),)
    attributes = (Attribute("dtype", Kind.STR),)

    def infer(self, x: TensorType, *, dtype: str) -> TensorType:
        """The same shape with the new dtype."""
        return tensor(x.shape, dtype)

    def evaluate(self, x: np.ndarray, *, dtype: str) -> np.ndarray:
        """Numpy's conversion."""
        return x.astype(DType(dtype).numpy)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Any value to any dtype that can hold small numbers."""
        return [choose.value(ALL)], {"dtype": choose.choice(["f32", "bf16", "f16", "i32", "i64"])}


class Bitcast(Op):
    """The same 32 bits read as another dtype."""

    name = "bitcast"
    operands = (Operand("x", frozenset({DType.F32, DType.I32})),)
    attributes = (Attribute("dtype", Kind.STR),)

    def infer(self, x: TensorType, *, dtype: str) -> TensorType:
        """The same shape with the new dtype."""
        if dtype not in ("f32", "i32"):
            raise IRError("bitcast is between 32-bit types", expected="f32 or i32", found=dtype)
        return x.with_dtype(DType(dtype))

    def evaluate(self, x: np.ndarray, *, dtype: str) -> np.ndarray:
        """A reinterpreting view of 32-bit words, also where floats are computed in double precision."""
        words = x if x.dtype == np.int32 else x.astype(np.float32)
        return words.view(DType(dtype).numpy)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Float bits to integer, whose result is always an ordinary number; of an input, whose bits are exact."""
        return [choose.input(tensor((choose.symbol(),)), -4, 4)], {"dtype": "i32"}


class Binary(Op):
    """Base of ops that combine two tensors of one type elementwise."""

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", FLOATS | INTS), Operand("y", FLOATS | INTS))

    def infer(self, x: TensorType, y: TensorType, **attrs: Any) -> TensorType:
        """The common type."""
        if not x.matches(y):
            raise IRError("operands differ in type", expected=str(x), found=str(y), fix="insert broadcast or cast")
        return x

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Any two values of one type."""
        x = choose.value(self.operands[0].dtypes)
        return [x, choose.like(type_of(x))], {}


class Add(Binary):
    """Sum."""

    name = "add"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x + y."""
        return x + y


class Sub(Binary):
    """Difference."""

    name = "sub"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x - y."""
        return x - y


class Mul(Binary):
    """Product."""

    name = "mul"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x * y."""
        return x * y


class Div(Binary):
    """Quotient of floats."""

    name = "div"
    operands = (Operand("x", FLOATS), Operand("y", FLOATS))

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x / y."""
        return x / y

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A divisor away from zero."""
        x = choose.value(FLOATS)
        return [x, choose.input(type_of(x), 0.5, 4.0)], {}


class Pow(Binary):
    """Power of a positive base."""

    name = "pow"
    operands = (Operand("x", FLOATS), Operand("y", FLOATS))

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x ^ y."""
        return x**y

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A positive base."""
        y = choose.value(FLOATS)
        return [choose.input(type_of(y), 0.5, 2.0), y], {}


class Max(Binary):
    """Larger of two; NaN if either is."""

    name = "max"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """max(x, y)."""
        return np.maximum(x, y)


class Min(Binary):
    """Smaller of two; NaN if either is."""

    name = "min"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """min(x, y)."""
        return np.minimum(x, y)


class And(Binary):
    """Bitwise and."""

    name = "and"
    operands = (Operand("x", BITS), Operand("y", BITS))

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x & y."""
        return x & y


class Or(Binary):
    """Bitwise or."""

    name = "or"
    operands = (Operand("x", BITS), Operand("y", BITS))

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x | y."""
        return x | y


class Xor(Binary):
    """Bitwise exclusive or."""

    name = "xor"
    operands = (Operand("x", BITS), Operand("y", BITS))

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x ^ y."""
        return x ^ y


class Shift(Binary):
    """Base of the shifts; the count is within [0, 31]."""

    operands = (Operand("x", frozenset({DType.I32})), Operand("y", frozenset({DType.I32})))

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A legal count."""
        x = choose.value(frozenset({DType.I32}))
        return [x, choose.input(type_of(x), 0, 31)], {}


class Shl(Shift):
    """Shift left."""

    name = "shl"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x << y."""
        return x << y


class Shr(Shift):
    """Logical shift right: zeros enter from the left."""

    name = "shr"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x >> y on unsigned words."""
        return (x.view(np.uint32) >> y.view(np.uint32)).view(np.int32)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


class Compare(Binary):
    """Comparison; floats compare ordered, except that `ne` is true of NaN."""

    name = "compare"
    attributes = (Attribute("direction", Kind.STR),)

    def infer(self, x: TensorType, y: TensorType, *, direction: str) -> TensorType:  # type: ignore[override]
        """Booleans of the common shape."""
        if direction not in COMPARISONS:
            raise IRError("unknown direction", expected=", ".join(COMPARISONS), found=direction)
        return super().infer(x, y).with_dtype(DType.I1)

    def evaluate(self, x: np.ndarray, y: np.ndarray, *, direction: str) -> np.ndarray:
        """The numpy ufunc of that direction."""
        result: np.ndarray = COMPARISONS[direction](x, y)
        return result

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Any two values of one type."""
        values, _ = super().generate(choose)
        return values, {"direction": choose.choice(sorted(COMPARISONS))}


class Select(Op):
    """Elementwise choice: x where the condition holds, else y."""

    name = "select"
    operands = (Operand("condition", frozenset({DType.I1})), Operand("x"), Operand("y"))

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
        """The common type of the branches."""
        if not x.matches(y) or not condition.matches(x.with_dtype(DType.I1)):
            raise IRError("condition and branches differ in shape", expected=str(x), found=f"{condition}, {y}")
        return x

    def evaluate(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """np.where."""
        return np.where(condition, x, y)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Any two values of one type and a condition."""
        x = choose.value(FLOATS | INTS)
        condition = choose.like(type_of(x).with_dtype(DType.I1))
        return [condition, x, choose.like(type_of(x))], {}


neg, absolute, exp, log, sqrt, rsqrt = Neg(), Abs(), Exp(), Log(), Sqrt(), Rsqrt()
tanh, erf, logistic, sin, cos = Tanh(), Erf(), Logistic(), Sin(), Cos()
floor, round_even, invert = Floor(), Round(), Not()
cast, bitcast = Cast(), Bitcast()
add, sub, mul, div, power = Add(), Sub(), Mul(), Div(), Pow()
maximum, minimum = Max(), Min()
bit_and, bit_or, bit_xor, shl, shr = And(), Or(), Xor(), Shl(), Shr()
compare, select = Compare(), Select()


def as_dtype(x: mlir.Value, dtype: DType) -> mlir.Value:
    """x cast to a dtype, or x itself if it has it."""
    result: mlir.Value = x if type_of(x).dtype is dtype else cast(x, dtype=dtype.value)
    return result
