"""Elementwise core ops: operands of one shape and dtype, no implicit broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.types import ALL, BITS, FLOATS, INTS, STORED, DType, TensorType, tensor, type_of

T = TypeVar("T")
WORDS = frozenset({DType.I32})


class Unary(Op):
    """Base of ops that map each element of one tensor."""

    operands = (Operand("x", FLOATS),)
    evaluate: Callable[..., np.ndarray]

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


class Quotient(Binary):
    """Base of divisions: by numbers away from zero, in examples."""

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A divisor away from zero."""
        x = choose.value(FLOATS)
        return [x, choose.input(type_of(x), 0.5, 4.0)], {}


class Power(Binary):
    """Base of powers: of positive numbers, in examples."""

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A positive base."""
        y = choose.value(FLOATS)
        return [choose.input(type_of(y), 0.5, 2.0), y], {}


class Shift(Binary):
    """Base of the shifts; the count is within [0, 31]."""

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """A legal count."""
        x = choose.value(WORDS)
        return [x, choose.input(type_of(x), 0, 31)], {}


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


def _unary(
    name: str,
    summary: str,
    meaning: Callable[[np.ndarray], np.ndarray],
    dtypes: frozenset[DType] = FLOATS,
    base: type[Unary] = Unary,
) -> Unary:
    """The op whose meaning is one function of numpy arrays."""

    def evaluate(self: Unary, x: np.ndarray) -> np.ndarray:
        return meaning(x)

    return _derived(base, name, summary, operands=(Operand("x", dtypes),), evaluate=evaluate)


def _binary(
    name: str,
    summary: str,
    meaning: Callable[[np.ndarray, np.ndarray], np.ndarray],
    dtypes: frozenset[DType] = FLOATS | INTS,
    base: type[Binary] = Binary,
) -> Binary:
    """The same of two arrays."""

    def evaluate(self: Binary, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return meaning(x, y)

    return _derived(base, name, summary, operands=(Operand("x", dtypes), Operand("y", dtypes)), evaluate=evaluate)


def _derived(base: type[T], name: str, summary: str, **members: object) -> T:
    """The instance of a subclass that is no more than its members."""
    described = {"__doc__": summary, "__module__": __name__, "name": name}
    instance: T = type(name.capitalize(), (base,), described | members)()
    return instance


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _logistic(x: np.ndarray) -> np.ndarray:
    """Written so that it does not overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _shift_right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of unsigned words."""
    return (x.view(np.uint32) >> y.view(np.uint32)).view(np.int32)


neg = _unary("neg", "Negation.", np.negative, FLOATS | INTS)
absolute = _unary("abs", "Absolute value.", np.abs, FLOATS | INTS)
exp = _unary("exp", "Natural exponential.", np.exp)
log = _unary("log", "Natural logarithm.", np.log, base=PositiveUnary)
sqrt = _unary("sqrt", "Square root.", np.sqrt, base=PositiveUnary)
rsqrt = _unary("rsqrt", "Reciprocal square root.", lambda x: 1 / np.sqrt(x), base=PositiveUnary)
tanh = _unary("tanh", "Hyperbolic tangent.", np.tanh)
erf = _unary("erf", "Gauss error function.", _erf)
logistic = _unary("logistic", "Logistic sigmoid.", _logistic)
sin = _unary("sin", "Sine, argument in radians.", np.sin)
cos = _unary("cos", "Cosine, argument in radians.", np.cos)
floor = _unary("floor", "Largest integer not above.", np.floor)
round_even = _unary("round", "Nearest integer, ties to even.", np.rint)
invert = _unary("not", "Bitwise complement; of booleans, negation.", np.invert, BITS)
cast, bitcast = Cast(), Bitcast()
add = _binary("add", "Sum.", np.add)
sub = _binary("sub", "Difference.", np.subtract)
mul = _binary("mul", "Product.", np.multiply)
div = _binary("div", "Quotient of floats.", np.divide, FLOATS, Quotient)
power = _binary("pow", "Power of a positive base.", np.power, FLOATS, Power)
maximum = _binary("max", "Larger of two; NaN if either is.", np.maximum)
minimum = _binary("min", "Smaller of two; NaN if either is.", np.minimum)
bit_and = _binary("and", "Bitwise and.", np.bitwise_and, BITS)
bit_or = _binary("or", "Bitwise or.", np.bitwise_or, BITS)
bit_xor = _binary("xor", "Bitwise exclusive or.", np.bitwise_xor, BITS)
shl = _binary("shl", "Shift left.", np.left_shift, WORDS, Shift)
shr = _binary("shr", "Logical shift right: zeros enter from the left.", _shift_right, WORDS, Shift)
compare, select = Compare(), Select()


def as_dtype(x: mlir.Value, dtype: DType) -> mlir.Value:
    """x cast to a dtype, or x itself if it has it."""
    result: mlir.Value = x if type_of(x).dtype is dtype else cast(x, dtype=dtype.value)
    return result
