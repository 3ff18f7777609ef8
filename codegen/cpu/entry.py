"""The native entry of a plan: one function that runs all launches of a step.

    int32_t wl_<entry>(wl_pool *pool, void *arena, void *const *buffers, const int64_t *dims)

It is straight-line code. Every distinct expression of the plan is computed once, and so is every pointer; the argument
and dim tables of a launch lie on the stack and are written anew only where they differ from the launch before, which
`wl_parallel` allows because it returns when all tiles are done. A launch of no tiles calls no kernel.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlir import ir
from mlir.dialects import arith, func, llvm

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value, constant, maximum, minimum, mlir_type, select
from warploom.runtime.expr import Expr, parse
from warploom.runtime.plan import Buffer, Entry

RUN = "wl_parallel"


def emit_entry(library: Library, name: str, entry: Entry) -> None:
    """Define `wl_<name>` in a library that holds the kernels of `entry`."""
    with library.module.context, ir.Location.name(name):
        pointer = llvm.PointerType.get()
        signature = ir.FunctionType.get([pointer] * 4, [mlir_type("i32")])
        function = func.FuncOp(f"wl_{name}", signature, ip=ir.InsertionPoint(library.module.body))
        with ir.InsertionPoint(function.add_entry_block()):
            pool, arena, buffers, dims = function.arguments
            values = _Expressions({dim: Ptr(dims, "i64")[i] for i, dim in enumerate(entry.dims)})
            pointers = _Pointers(entry, Ptr(arena, "i8"), Ptr(buffers, "i64"), values)
            args = _Table(max((len(launch.operands) for launch in entry.launches), default=0))
            own_dims = _Table(max((len(launch.dims) for launch in entry.launches), default=0))
            for launch in entry.launches:
                args.write([pointers.of(operand) for operand in launch.operands])
                own_dims.write([values.of(dim).ssa for dim in launch.dims])
                kernel = func.ConstantOp(_kernel_type(), ir.FlatSymbolRefAttr.get(launch.kernel)).result
                tiles = values.of(launch.tiles).ssa
                with ir.Location.name(launch.location or launch.kernel):
                    func.CallOp([], RUN, [pool, kernel, args.address, own_dims.address, tiles])
            func.ReturnOp([constant(0, "i32").ssa])


def declare_pool(library: Library) -> None:
    """Declare pool.c's `wl_parallel`, once for all entries of a library."""
    with library.module.context, ir.Location.name(RUN):
        pointer = llvm.PointerType.get()
        inputs = [pointer, _kernel_type(), pointer, pointer, mlir_type("i64")]
        func.FuncOp(
            RUN, ir.FunctionType.get(inputs, []), visibility="private", ip=ir.InsertionPoint(library.module.body)
        )


def _kernel_type() -> ir.Type:
    pointer, i64 = llvm.PointerType.get(), mlir_type("i64")
    return ir.FunctionType.get([pointer, pointer, i64, i64, pointer], [])


@dataclass(slots=True)
class _Expressions:
    """The values of expressions, each computed once: `known` by the text of the expression."""

    known: dict[str, Value]

    def of(self, expr: Expr) -> Value:
        return self._value(parse(expr))

    def _value(self, node: ast.expr) -> Value:
        text = ast.unparse(node)
        if text not in self.known:
            self.known[text] = self._compute(node)
        return self.known[text]

    def _compute(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() as number):
                return constant(number, "i64")
            case ast.UnaryOp(operand=operand):
                return -self._value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](self._value(left), self._value(right))
            case ast.Call(func=ast.Name(id=function), args=[first, *rest]):
                result = self._value(first)
                for argument in rest:
                    result = {"max": maximum, "min": minimum}[function](result, self._value(argument))
                return result
        raise AssertionError(f"parse() let {ast.dump(node)} through")


def _floor_div(left: Value, right: Value) -> Value:
    """Division rounded down, as Python's."""
    quotient = Value(arith.DivSIOp(left.ssa, right.ssa).result, "i64")
    remainder = left - quotient * right
    is_above = remainder.ne(0) & ((remainder ^ right) < 0)
    return select(is_above, quotient - 1, quotient)


_OPERATORS: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.FloorDiv: _floor_div,
}


class _Pointers:
    """The addresses of buffers, each computed once."""

    def __init__(self, entry: Entry, arena: Ptr, externals: Ptr, values: _Expressions) -> None:
        self._buffers: dict[str, Buffer] = {b.name: b for b in entry.buffers if b.aliases is None or b.kind == "view"}
        self._externals = {name: position for position, name in enumerate(entry.externals)}
        self._arena, self._table, self._values = arena, externals, values
        self._known: dict[str, ir.Value] = {}

    def of(self, name: str) -> ir.Value:
        if name not in self._known:
            self._known[name] = self._address(self._buffers[name])
        return self._known[name]

    def _address(self, buffer: Buffer) -> ir.Value:
        if buffer.name in self._externals:
            return self._table.load_ptr(self._externals[buffer.name], "i8").ssa
        base = self._arena if buffer.aliases is None else Ptr(self.of(buffer.aliases), "i8")
        assert buffer.offset is not None
        return base.at(self._values.of(buffer.offset)).ssa


class _Table:
    """An array of 8-byte entries on the stack."""

    def __init__(self, size: int) -> None:
        count = constant(max(size, 1), "i64").ssa
        self.address: ir.Value = llvm.AllocaOp(llvm.PointerType.get(), count, mlir_type("i64")).result
        self._current: dict[int, ir.Value] = {}

    def write(self, values: Sequence[ir.Value]) -> None:
        """Let the array begin with `values`."""
        for position, value in enumerate(values):
            if self._current.get(position) is not value:
                llvm.StoreOp(value, Ptr(self.address, "i64").at(position).ssa, alignment=8)
                self._current[position] = value
