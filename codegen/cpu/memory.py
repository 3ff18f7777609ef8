"""Typed pointers: scalar and vector loads and stores on `!llvm.ptr`.

The element type of a pointer is what lies in memory: f32, bf16, f16, f8e4m3, i8, i16, i32 or i64. The narrow floats
exist in memory only: loads widen them to f32 (exactly), stores round f32 to the nearest, ties to even. All other types
load as they are; `values.to_f32` turns integers into floats.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlir import ir
from mlir.dialects import arith, llvm

from warploom.codegen.cpu.values import (
    INTEGER_BITS,
    LANES,
    Operand,
    Value,
    bitcast,
    broadcast,
    constant,
    convert_int,
    index,
    iota,
    mlir_type,
    select,
)

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f8e4m3": 1} | {
    name: (bits + 7) // 8 for name, bits in INTEGER_BITS.items()
}
_READ, _WRITE, _DATA_CACHE, _KEEP = 0, 1, 1, 3  # operands of llvm.prefetch


@dataclass(frozen=True, slots=True)
class Ptr:
    """The address of elements of type `element`; offsets count elements, as i64 values or Python ints."""

    ssa: ir.Value
    element: str

    def at(self, offset: Operand) -> Ptr:
        """The address `offset` elements further on."""
        constant_offset = isinstance(offset, int)
        if constant_offset and offset == 0:
            return self
        step = llvm.GEPOp(
            llvm.PointerType.get(),
            self.ssa,
            [] if constant_offset else [index(offset).ssa],
            [offset if constant_offset else -(2**31)],
            mlir_type(_register_element(self.element)),
            0,
        )
        return Ptr(step.result, self.element)

    def cast(self, element: str) -> Ptr:
        """The same address, read as elements of another type."""
        return Ptr(self.ssa, element)

    def __getitem__(self, offset: Operand) -> Value:
        return self.load(offset, lanes=0)

    def __setitem__(self, offset: Operand, value: Value) -> None:
        self.store(offset, value)

    def load(self, offset: Operand, lanes: int = LANES, mask: Value | None = None) -> Value:
        """`lanes` elements from `offset` on (0: one scalar); with a mask, the lanes left out read as 0."""
        raw = _register_element(self.element)
        kind, address = mlir_type(raw, lanes), self.at(offset).ssa
        align = ELEMENT_BYTES[self.element]
        if mask is None:
            loaded = llvm.LoadOp(kind, address, alignment=align).result
        else:
            zero = constant(0, raw, lanes)
            loaded = llvm.MaskedLoadOp(kind, address, mask.ssa, align, pass_thru=zero.ssa).result
        value = Value(loaded, raw, lanes)
        return _WIDEN[self.element](value) if self.element in _WIDEN else value

    def store(self, offset: Operand, value: Value, mask: Value | None = None) -> None:
        """Write a scalar or vector at `offset`; with a mask, only its lanes."""
        stored = _NARROW[self.element](value) if self.element in _NARROW else value
        expected = _register_element(self.element)
        if stored.element != expected:
            raise TypeError(f"a pointer to {self.element} cannot store {value.element}")
        address, align = self.at(offset).ssa, ELEMENT_BYTES[self.element]
        if mask is None:
            llvm.StoreOp(stored.ssa, address, alignment=align)
        else:
            llvm.MaskedStoreOp(stored.ssa, address, mask.ssa, align)

    def load_ptr(self, offset: Operand, element: str) -> Ptr:
        """The pointer stored in the table of 8-byte pointers at this address."""
        address = self.cast("i64").at(offset).ssa
        return Ptr(llvm.LoadOp(llvm.PointerType.get(), address, alignment=8).result, element)

    def prefetch(self, offset: Operand, *, write: bool = False) -> None:
        """Ask for the cache line at `offset`; never faults."""
        llvm.Prefetch(self.at(offset).ssa, _WRITE if write else _READ, _KEEP, _DATA_CACHE)


def first_lanes(count: Operand, lanes: int = LANES) -> Value:
    """The mask of the lanes below `count` (i64, of magnitude < 2^31): what is left of a row at its tail."""
    return iota(lanes) < broadcast(convert_int(index(count), "i32"), lanes)


def lanes_of_row(i: Value, columns: int) -> Value | None:
    """The mask of the lanes of a vector at column i that are columns of a row; None: all are, wherever it is."""
    return None if columns % LANES == 0 else first_lanes(columns - i)


def widen_bf16(bits: Value) -> Value:
    """bf16 bit patterns (i16) as f32, exactly."""
    return bitcast(convert_int(bits, "i32", signed=False) << 16, "f32")


def narrow_bf16(value: Value) -> Value:
    """f32 rounded to bf16 bit patterns (i16), ties to even; NaN stays NaN."""
    bits = bitcast(value, "i32")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    quiet = bits | 0x400000
    return convert_int(select(value.ne(value), quiet, rounded) >> 16, "i16")


def widen_f16(bits: Value) -> Value:
    """f16 bit patterns (i16) as f32, exactly."""
    half = arith.BitcastOp(_f16(bits.lanes), bits.ssa).result
    return Value(arith.ExtFOp(mlir_type("f32", bits.lanes), half).result, "f32", bits.lanes)


def narrow_f16(value: Value) -> Value:
    """f32 rounded to f16 bit patterns (i16), ties to even."""
    half = arith.TruncFOp(_f16(value.lanes), value.ssa).result
    return Value(arith.BitcastOp(mlir_type("i16", value.lanes), half).result, "i16", value.lanes)


def _f16(lanes: int) -> ir.Type:
    return ir.VectorType.get([lanes], ir.F16Type.get()) if lanes else ir.F16Type.get()


def widen_f8(bits: Value) -> Value:
    """E4M3 bit patterns (i8) as f32, exactly: exponent and mantissa moved into place, then 2^120 for the bias."""
    wide = convert_int(bits, "i32", signed=False)
    magnitude = wide & 0x7F
    value = bitcast(magnitude << 20, "f32") * 2.0**120
    value = select(magnitude.eq(0x7F), float("nan"), value)
    return bitcast(bitcast(value, "i32") | ((wide & 0x80) << 24), "f32")


def narrow_f8(value: Value) -> Value:
    """f32 rounded to E4M3 bit patterns (i8), ties to even; NaN beyond 464, as ml_dtypes has it."""
    bits = bitcast(value, "i32")
    magnitude = bits & 0x7FFFFFFF
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    small = bitcast(bitcast(magnitude, "f32") * 512.0 + 12582912.0, "i32") - 0x4B400000  # multiples of 2^-9
    code = select(magnitude < 0x3C800000, small, normal)  # below 2^-6 numbers are subnormal
    code = select((code > 0x7E) | (magnitude > 0x7F800000), 0x7F, code)
    return convert_int(code | ((bits >> 24) & 0x80), "i8")


_WIDEN = {"bf16": widen_bf16, "f16": widen_f16, "f8e4m3": widen_f8}
_NARROW = {"bf16": narrow_bf16, "f16": narrow_f16, "f8e4m3": narrow_f8}


def _register_element(element: str) -> str:
    if element not in _WIDEN:
        return element
    return "i8" if element == "f8e4m3" else "i16"
