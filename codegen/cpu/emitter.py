"""The kernel kit: write a CPU kernel in Python, get an MLIR function with the kernel ABI.

A `Library` collects the kernels of one ISA level in one MLIR module. Inside `with library.kernel(...) as k:` plain
Python over `Value` (values.py), `Ptr` (memory.py) and `control.py` emits the body:

    with library.kernel("scale", operands={"x": "f32", "y": "bf16"}, dims=["T"], location="model.norm") as k:
        x, y = k.operands["x"], k.operands["y"]
        with k.tiles() as row:                                  # this call's share of the launch: [begin, end)
            with loop(0, columns, LANES) as i:
                mask = first_lanes(columns - i)                 # only needed when columns % LANES != 0
                y.store(row * columns + i, x.load(row * columns + i, mask=mask) * 2.0, mask=mask)

ABI: `void name(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *scratch)`. Everything emitted
is deterministic: emitting twice gives the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from mlir import ir
from mlir.dialects import func, llvm
from mlir.passmanager import PassManager

from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value


@dataclass(frozen=True, slots=True)
class Kernel:
    """The arguments of a kernel being emitted.

    `operands` are its buffers by name, `dims` its symbolic dims by name (i64), [`begin`, `end`) the tiles to compute,
    `scratch` this thread's memory (64-byte aligned; `scratch.cast("f32")` to use it).
    """

    name: str
    isa: Isa
    operands: dict[str, Ptr]
    dims: dict[str, Value]
    begin: Value
    end: Value
    scratch: Ptr

    @contextmanager
    def tiles(self) -> Iterator[Value]:
        """A loop over the tiles of this call; yields the tile's index (i64)."""
        with loop(self.begin, self.end) as tile:
            yield tile


class Library:
    """The kernels of one ISA level: one MLIR context, one module."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._context = ir.Context()
        self._location = ir.Location.unknown(self._context)
        self.module = ir.Module.create(self._location)
        self._functions: dict[str, func.FuncOp] = {}
        self._tables: dict[str, str] = {}  # content -> symbol

    @contextmanager
    def kernel(
        self, name: str, operands: Mapping[str, str], dims: Sequence[str] = (), location: str = ""
    ) -> Iterator[Kernel]:
        """Define kernel `name`; the body emits it.

        Args:
            name: symbol of the function in the shared object.
            operands: buffer name -> element type in memory, in the order of the ABI's `args`.
            dims: names of the symbolic dims, in the order of the ABI's `dims`.
            location: what the kernel stands for, such as a module path; kept in the MLIR source.
        """
        if name in self._functions:
            raise ValueError(f"kernel {name} is already defined")
        with self._context, ir.Location.name(location or name, context=self._context):
            function = self._declare(name)
            with ir.InsertionPoint(function.add_entry_block()):
                args, dims_table, begin, end, scratch = function.arguments
                table, extents = Ptr(args, "i64"), Ptr(dims_table, "i64")
                yield Kernel(
                    name=name,
                    isa=self.isa,
                    operands={key: table.load_ptr(i, operands[key]) for i, key in enumerate(operands)},
                    dims={key: extents[i] for i, key in enumerate(dims)},
                    begin=Value(begin, "i64"),
                    end=Value(end, "i64"),
                    scratch=Ptr(scratch, "i8"),
                )
                func.ReturnOp([])
            PassManager.parse("func.func(canonicalize,cse)").run(function.operation)
        self._functions[name] = function

    def table(self, data: np.ndarray, element: str) -> Ptr:
        """Read-only data of the library, to be read as `element` (bf16 and f16: given as int16 bits)."""
        flat = np.ascontiguousarray(data).reshape(-1)
        key = f"{flat.dtype}:{flat.tobytes().hex()}"
        if key not in self._tables:
            self._tables[key] = f"table{len(self._tables)}"
            literal = ir.DenseElementsAttr.get(flat)
            kind = ir.Type.parse(f"!llvm.array<{flat.size} x {literal.type.element_type}>")
            linkage = ir.Attribute.parse("#llvm.linkage<internal>")
            place = ir.InsertionPoint.at_block_begin(self.module.body)
            llvm.GlobalOp(kind, self._tables[key], linkage, constant=True, value=literal, alignment=64, ip=place)
        return Ptr(llvm.AddressOfOp(llvm.PointerType.get(), self._tables[key]).result, element)

    def source(self, name: str) -> str:
        """The readable MLIR text of one kernel."""
        return str(self._functions[name])

    def _declare(self, name: str) -> func.FuncOp:
        pointer, i64 = llvm.PointerType.get(), ir.IntegerType.get_signless(64)
        signature = ir.FunctionType.get([pointer, pointer, i64, i64, pointer], [])
        function = func.FuncOp(name, signature, ip=ir.InsertionPoint(self.module.body))
        # Without these LLVM splits 512-bit vectors in two on CPUs that it tunes for 256.
        width = str(self.isa.vector_bits)
        pairs = [["prefer-vector-width", width], ["min-legal-vector-width", width]]
        passthrough = [ir.ArrayAttr.get([ir.StringAttr.get(part) for part in pair]) for pair in pairs]
        function.attributes["passthrough"] = ir.ArrayAttr.get(passthrough)
        return function
