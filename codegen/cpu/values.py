"""Typed SSA values: scalars and fixed vectors with Python operators, over MLIR's arith, math and vector dialects.

A `Value` is a scalar (`lanes == 0`) or a vector of `lanes` elements of one element type: f32, i1, i8, i16, i32 or
i64. Python numbers become constants of the other operand's type, and a scalar meeting a vector is broadcast, so
that one function body serves both. Integers are signless; `//`, `%` and `>>` treat them as unsigned (index
arithmetic), comparisons as signed. No fast-math flag is ever set: the float operations run exactly as written,
which is what makes results equal bit for bit between ISA levels and batch shapes.

Ops go to MLIR's current insertion point, which `emitter.Library.kernel` and the blocks of `control` set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mlir import ir
from mlir.dialects import arith, llvm, math, vector

LANES = 16  # f32 lanes of one vector of the kit on every ISA level; LLVM splits it where registers are narrower
INTEGER_BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}

Operand: TypeAlias = "Value | int | float"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An SSA value with its element type and lane count (0 for a scalar)."""

    ssa: ir.Value
    element: str
    lanes: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the elements are f32."""
        return self.element == "f32"

    def __add__(self, other: Operand) -> Value:
        return _binary(arith.AddFOp, arith.AddIOp, self, other)

    def __radd__(self, other: Operand) -> Value:
        return _binary(arith.AddFOp, arith.AddIOp, other, self)

    def __sub__(self, other: Operand) -> Value:
        return _binary(arith.SubFOp, arith.SubIOp, self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _binary(arith.SubFOp, arith.SubIOp, other, self)

    def __mul__(self, other: Operand) -> Value:
        return _binary(arith.MulFOp, arith.MulIOp, self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _binary(arith.MulFOp, arith.MulIOp, other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _binary(arith.DivFOp, None, self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _binary(arith.DivFOp, None, other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return _binary(None, arith.DivUIOp, self, other)

    def __mod__(self, other: Operand) -> Value:
        return _binary(None, arith.RemUIOp, self, other)

    def __and__(self, other: Operand) -> Value:
        return _binary(None, arith.AndIOp, self, other)

    def __or__(self, other: Operand) -> Value:
        return _binary(None, arith.OrIOp, self, other)

    def __xor__(self, other: Operand) -> Value:
        return _binary(None, arith.XOrIOp, self, other)

    def __lshift__(self, other: Operand) -> Value:
        return _binary(None, arith.ShLIOp, self, other)

    def __rshift__(self, other: Operand) -> Value:
        return _binary(None, arith.ShRUIOp, self, other)

    def shift_right_signed(self, other: Operand) -> Value:
        """Arithmetic shift right, keeping the sign."""
        return _binary(None, arith.ShRSIOp, self, other)

    def __invert__(self) -> Value:
        return self ^ (1 if self.element == "i1" else -1)

    def __neg__(self) -> Value:
        return Value(arith.NegFOp(self.ssa).result, self.element, self.lanes) if self.is_float else 0 - self

    def __lt__(self, other: Operand) -> Value:
        return _compare("lt", self, other)

    def __le__(self, other: Operand) -> Value:
        return _compare("le", self, other)

    def __gt__(self, other: Operand) -> Value:
        return _compare("gt", self, other)

    def __ge__(self, other: Operand) -> Value:
        return _compare("ge", self, other)

    def eq(self, other: Operand) -> Value:
        """Elementwise equality, as i1."""
        return _compare("eq", self, other)

    def ne(self, other: Operand) -> Value:
        """Elementwise inequality, as i1 (true where a float is NaN)."""
        return _compare("ne", self, other)


def mlir_type(element: str, lanes: int = 0) -> ir.Type:
    """The MLIR type of `element` (or of a vector of `lanes` of them)."""
    scalar = ir.F32Type.get() if element == "f32" else ir.IntegerType.get_signless(INTEGER_BITS[element])
    return ir.VectorType.get([lanes], scalar) if lanes else scalar


def constant(value: int | float, element: str, lanes: int = 0) -> Value:
    """A constant scalar, or a vector with `value` in every lane."""
    scalar = mlir_type(element)
    attribute = ir.FloatAttr.get(scalar, float(value)) if element == "f32" else ir.IntegerAttr.get(scalar, value)
    kind = mlir_type(element, lanes)
    literal = ir.DenseElementsAttr.get_splat(kind, attribute) if lanes else attribute
    return Value(arith.ConstantOp(kind, literal).result, element, lanes)


def index(value: Operand) -> Value:
    """`value` as an i64 scalar: the type of every index, bound and dim."""
    return value if isinstance(value, Value) else constant(value, "i64")


def broadcast(value: Value, lanes: int = LANES) -> Value:
    """`value` in every lane; a vector passes through."""
    if value.lanes or not lanes:
        return value
    return Value(vector.BroadcastOp(mlir_type(value.element, lanes), value.ssa).result, value.element, lanes)


def like(value: Operand, reference: Value) -> Value:
    """`value` with the lanes of `reference`; a Python number becomes a constant of its element type."""
    if isinstance(value, Value):
        return broadcast(value, reference.lanes)
    return constant(value, reference.element, reference.lanes)


def match(first: Operand, second: Operand) -> tuple[Value, Value]:
    """Both operands with one element type and lane count (see the module's text)."""
    if isinstance(first, Value):
        right = like(second, first)
        left = broadcast(first, right.lanes)
    elif isinstance(second, Value):
        left, right = like(first, second), second
    else:
        raise TypeError("at least one operand must be a Value")
    if left.element != right.element or left.lanes != right.lanes:
        raise TypeError(f"operands differ: {left.element} x {left.lanes} and {right.element} x {right.lanes}")
    return left, right


def _binary(
    float_op: type[ir.OpView] | None, integer_op: type[ir.OpView] | None, first: Operand, second: Operand
) -> Value:
    left, right = match(first, second)
    op = float_op if left.is_float else integer_op
    if op is None:
        raise TypeError(f"this operator is not defined on {left.element}")
    return Value(op(left.ssa, right.ssa).result, left.element, left.lanes)


_FLOAT_PREDICATES = {"eq": "OEQ", "ne": "UNE", "lt": "OLT", "le": "OLE", "gt": "OGT", "ge": "OGE"}
_INTEGER_PREDICATES = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}


def _compare(relation: str, first: Operand, second: Operand) -> Value:
    left, right = match(first, second)
    if left.is_float:
        float_predicate = getattr(arith.CmpFPredicate, _FLOAT_PREDICATES[relation])
        return Value(arith.CmpFOp(float_predicate, left.ssa, right.ssa).result, "i1", left.lanes)
    predicate = getattr(arith.CmpIPredicate, _INTEGER_PREDICATES[relation])
    return Value(arith.CmpIOp(predicate, left.ssa, right.ssa).result, "i1", left.lanes)


def select(condition: Value, if_true: Operand, if_false: Operand) -> Value:
    """`if_true` where `condition` holds, else `if_false`; a scalar condition chooses whole vectors."""
    left, right = match(if_true, if_false)
    if condition.lanes and not left.lanes:
        left, right = broadcast(left, condition.lanes), broadcast(right, condition.lanes)
    return Value(arith.SelectOp(condition.ssa, left.ssa, right.ssa).result, left.element, left.lanes)


def maximum(first: Operand, second: Operand) -> Value:
    """The larger operand; `second` if either is NaN (one x86 instruction)."""
    left, right = match(first, second)
    return select(left > right, left, right)


def minimum(first: Operand, second: Operand) -> Value:
    """The smaller operand; `second` if either is NaN (one x86 instruction)."""
    left, right = match(first, second)
    return select(left < right, left, right)


def fma(first: Operand, second: Operand, addend: Operand) -> Value:
    """first * second + addend in f32 with one rounding."""
    left, right = match(first, second)
    left, total = match(left, addend)
    right = broadcast(right, left.lanes)
    return Value(math.FmaOp(left.ssa, right.ssa, total.ssa).result, "f32", left.lanes)


def sqrt(value: Value) -> Value:
    """Correctly rounded square root."""
    return Value(math.SqrtOp(value.ssa).result, "f32", value.lanes)


def absolute(value: Value) -> Value:
    """Magnitude of an f32 value."""
    return Value(math.AbsFOp(value.ssa).result, "f32", value.lanes)


def copysign(magnitude: Value, sign: Value) -> Value:
    """`magnitude` with the sign of `sign`, f32."""
    return Value(math.CopySignOp(magnitude.ssa, sign.ssa).result, "f32", magnitude.lanes)


def bitcast(value: Value, element: str) -> Value:
    """The same bits as another element type of the same width."""
    return Value(arith.BitcastOp(mlir_type(element, value.lanes), value.ssa).result, element, value.lanes)


def recast(value: Value, element: str) -> Value:
    """The bits of an integer vector read as more or fewer integers of another width."""
    lanes = value.lanes * INTEGER_BITS[value.element] // INTEGER_BITS[element]
    return Value(vector.BitCastOp(mlir_type(element, lanes), value.ssa).result, element, lanes)


def convert_int(value: Value, element: str, *, signed: bool = True) -> Value:
    """An integer widened (with its sign, or with zeros) or truncated to `element`."""
    have, want = INTEGER_BITS[value.element], INTEGER_BITS[element]
    if have == want:
        return value
    widen = arith.ExtSIOp if signed else arith.ExtUIOp
    op = arith.TruncIOp if want < have else widen
    return Value(op(mlir_type(element, value.lanes), value.ssa).result, element, value.lanes)


def to_f32(value: Value) -> Value:
    """A signed integer as f32; an f32 passes through."""
    if value.is_float:
        return value
    wide = convert_int(value, "i32") if INTEGER_BITS[value.element] < 32 else value
    return Value(arith.SIToFPOp(mlir_type("f32", value.lanes), wide.ssa).result, "f32", value.lanes)


def to_i32(value: Value) -> Value:
    """f32 as i32, toward zero. Undefined outside i32's range and for NaN."""
    return Value(arith.FPToSIOp(mlir_type("i32", value.lanes), value.ssa).result, "i32", value.lanes)


def iota(lanes: int = LANES, element: str = "i32") -> Value:
    """The vector 0, 1, 2, ..."""
    attribute = ir.DenseElementsAttr.get(
        [ir.IntegerAttr.get(mlir_type(element), lane) for lane in range(lanes)], mlir_type(element, lanes)
    )
    return Value(arith.ConstantOp(mlir_type(element, lanes), attribute).result, element, lanes)


def shuffle(first: Value, second: Value, lanes: Sequence[int]) -> Value:
    """The vector whose lane i is lane `lanes[i]` of `first` followed by `second`."""
    return Value(vector.ShuffleOp(first.ssa, second.ssa, list(lanes)).result, first.element, len(lanes))


def interleave(evens: Value, odds: Value) -> tuple[Value, Value]:
    """Two vectors holding evens[0], odds[0], evens[1], odds[1], ... in order."""
    count = evens.lanes
    order = [lane + side * count for lane in range(count) for side in (0, 1)]
    return shuffle(evens, odds, order[:count]), shuffle(evens, odds, order[count:])


def lane(value: Value, position: Operand) -> Value:
    """One lane of a vector as a scalar; `position` is a Python int or an i64 value."""
    fixed = isinstance(position, int)
    dynamic, static = ([], [position]) if fixed else ([index(position).ssa], [ir.ShapedType.get_dynamic_size()])
    return Value(vector.ExtractOp(value.ssa, dynamic, static).result, value.element)


def reduce(value: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """The lanes combined pairwise by halves (a fixed tree, so the result is the same on every ISA level)."""
    while value.lanes > 1:
        half = value.lanes // 2
        value = combine(shuffle(value, value, range(half)), shuffle(value, value, range(half, 2 * half)))
    return lane(value, 0)


def reduce_add(value: Value) -> Value:
    """Sum of the lanes (fixed tree)."""
    return reduce(value, lambda left, right: left + right)


def reduce_max(value: Value) -> Value:
    """Largest lane."""
    return reduce(value, maximum)


def intrinsic(name: str, operands: Sequence[Value], element: str, lanes: int = 0) -> Value:
    """Result of the LLVM intrinsic `name`, such as "llvm.x86.avx512.vpdpbusd.512"."""
    call = llvm.CallIntrinsicOp(mlir_type(element, lanes), name, [operand.ssa for operand in operands], [], [])
    return Value(call.results_, element, lanes)
