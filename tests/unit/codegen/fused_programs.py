"""Small fused programs and the fake kernel families that compute them: what the driver's tests are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import mlir.ir as mlir
from mlir.dialects import func

from warploom.codegen.cpu.control import loop, when
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match, Slot, Template
from warploom.codegen.cpu.values import LANES, convert_int
from warploom.ir.dims import DimRange
from warploom.ir.function import Function, FunctionBuilder
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.types import TensorType, tensor, type_of

DIMS = {"T": DimRange(0, 8), "C": DimRange(1, 8)}
ROWS = tensor(("T", LANES))
LAYERS, PAGE_SIZE = 2, 2
KV = tensor((LAYERS, "C", 2, 1, PAGE_SIZE * LANES))
KEYS, SLOTS = tensor(("T", 1, LANES)), tensor(("T",), "i32")


def make_group(
    module: mlir.Module, name: str, kind: str, types: Sequence[TensorType], body: Callable[..., mlir.Value]
) -> Function:
    """A private function of one result."""
    builder = FunctionBuilder(module, name, DIMS, private=True)
    inputs = [builder.input(str(i), t) for i, t in enumerate(types)]
    with builder.point:
        group = builder.finish({"0": body(*inputs)})
    group.operation.attributes["wl.kind"] = mlir.StringAttr.get(kind)
    return group


def make_sum(module: mlir.Module, kind: str = "sum") -> Function:
    """`@sum`: x + y."""
    return make_group(module, "sum", kind, [ROWS, ROWS], add)


def make_write(module: mlir.Module, layer: int) -> Function:
    """`@write<layer>`: kv with keys and values [T, 1, 16] written at slots."""

    def body(kv: mlir.Value, k: mlir.Value, slots: mlir.Value) -> mlir.Value:
        return kv_write(kv, k, k, slots, layer=layer, page_size=PAGE_SIZE, k_layout="token_major")

    return make_group(module, f"write{layer}", "write", [KV, KEYS, SLOTS], body)


def call(group: Function, *operands: mlir.Value) -> mlir.Value:
    """Call a group of one result at the insertion point."""
    results = [value.type for value in group.results.values()]
    return func.CallOp(results, group.name, list(operands)).results[0]


@dataclass(frozen=True)
class SumSpec:
    """x + y over N rows of 16, a row a tile."""

    name = "sum_rows"
    dims = ("N",)
    tiles = "N"
    flops = "16 * N"
    bytes = "192 * N"
    scratch_bytes = 256

    def emit(self, library: Library) -> None:
        with library.kernel(self.name, {"x": "f32", "y": "f32", "out": "f32"}, self.dims) as k, k.tiles() as row:
            x, y, out = k.operands.values()
            out.store(row * LANES, x.load(row * LANES) + y.load(row * LANES))


@dataclass(frozen=True)
class WriteSpec:
    """Rows [T, 16] written at slots of one layer of a token-major cache, as keys and as values."""

    name = "write_rows"
    dims = ("T",)
    tiles = "min(T, 1)"
    flops = "0"
    bytes = "192 * T"
    scratch_bytes = 0

    def emit(self, library: Library) -> None:
        with library.kernel(self.name, {"kv": "f32", "k": "f32", "slots": "i32"}, self.dims) as k, k.tiles():
            kv, rows, slots = k.operands.values()
            with loop(0, k.dims["T"]) as t:
                slot = convert_int(slots[t], "i64")
                with when(slot >= 0):
                    row = (slot // PAGE_SIZE) * (2 * PAGE_SIZE) + slot % PAGE_SIZE
                    for which in (0, 1):
                        kv.store((row + which * PAGE_SIZE) * LANES, rows.load(t * LANES))


def _match_sum(group: Function) -> Match | str:
    rows, columns = type_of(group.inputs["0"]).shape
    if columns != LANES:
        return f"rows of {columns}, not 16"
    return Match(SumSpec(), (Slot("input", 0), Slot("input", 1), Slot("result", 0)), {"N": str(rows)})


def _match_write(group: Function) -> Match | str:
    (write,) = (op for op in group.ops if op_of(op) is kv_write)
    offset = f"{kv_write.attrs_of(write)['layer']} * C * {2 * PAGE_SIZE * LANES * 4}"
    return Match(WriteSpec(), (Slot("result", 0, offset), Slot("input", 1), Slot("input", 2)), {"T": "T"})


FAMILIES = [
    cast(Template, SimpleNamespace(KIND="sum", match=_match_sum)),
    cast(Template, SimpleNamespace(KIND="write", match=_match_write)),
]
