"""Matrix products with weights and row lookup in the same tables, in float; see `quantization.py` for the others.

How a weight lies in memory is said by its `layout` (see `ir/layouts.py`).
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.layouts import LAYOUTS, columns_of, packed_shape, rows_of, unpack_array
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.packing import packed_weight, static, unpacked
from warploom.ir.ops.reduce import dot_general
from warploom.ir.ops.shape import gather
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]
LAYOUT = (Attribute("n", Kind.INT), Attribute("layout", Kind.STR))
FLOAT_LAYOUTS = ("row", "panel", "panel_pair")


class Linear(Op):
    """y = x @ W^T over the last axis of x; W of any float dtype is read as the dtype of x. n is the rows of W."""

    name = "linear"
    operands = (activation("x"), Operand("weight", FLOATS))
    attributes = LAYOUT

    def infer(self, x: TensorType, weight: TensorType, *, n: int, layout: str) -> TensorType:
        """[.., n]."""
        check_weight(x, weight, n, layout)
        return x.with_shape((*x.shape[:-1], n))

    def evaluate(self, x: np.ndarray, weight: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """One matrix product."""
        return x @ unpack_array(weight, n, layout).astype(x.dtype).T

    def decompose(self, x: mlir.Value, weight: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Unpack, cast, contract."""
        return contract(x, cast(unpacked(weight, n, layout), dtype="f32"))

    def generate(self, choose: Chooser) -> Generated:
        """Rows of a value times a fresh weight in any layout."""
        n, layout = choose.choice([(5, "row"), (5, "panel"), (40, "panel"), (64, "panel_pair")])
        k = choose.choice([1, 3, 16, 37])
        x = choose.like(tensor((choose.symbol(), k), choose.choice([DType.F32, DType.BF16])))
        dtype = choose.choice([DType.F32, DType.BF16])
        return [x, choose.input(tensor(packed_shape(n, k, layout), dtype), -1, 1)], {"n": n, "layout": layout}


class Embed(Op):
    """Rows of an embedding table as f32; ids outside are clamped. n is the rows of the table."""

    name = "embed"
    operands = (Operand("ids", I32), Operand("table", FLOATS))
    attributes = LAYOUT

    def infer(self, ids: TensorType, table: TensorType, *, n: int, layout: str) -> TensorType:
        """f32 [.., K]."""
        return embedding_type(ids, table, n, layout)

    def evaluate(self, ids: np.ndarray, table: np.ndarray, *, n: int, layout: str) -> np.ndarray:
        """Integer-array indexing."""
        return rows_of(table, np.clip(ids, 0, n - 1), layout)

    def decompose(self, ids: mlir.Value, table: mlir.Value, *, n: int, layout: str) -> mlir.Value:
        """Unpack, gather, cast."""
        return cast(gather(unpacked(table, n, layout), ids), dtype="f32")

    def generate(self, choose: Chooser) -> Generated:
        """Ids in and just outside of the range over a fresh table."""
        n, layout = choose.choice([(7, "row"), (40, "panel"), (64, "panel_pair")])
        table = tensor(packed_shape(n, choose.integer(1, 5), layout), choose.choice([DType.F32, DType.BF16]))
        ids = choose.input(tensor((choose.symbol(),), DType.I32), -1, n)
        return [ids, choose.input(table, -1, 1)], {"n": n, "layout": layout}


def contract(x: mlir.Value, weight: mlir.Value) -> mlir.Value:
    """x [.., K] times a row-layout weight [N, K]."""
    last = type_of(x).rank - 1
    result: mlir.Value = dot_general(x, weight, x_contract=(last,), y_contract=(1,), x_batch=(), y_batch=())
    return result


def check_weight(x: TensorType, weight: TensorType, n: int, layout: str) -> None:
    """A weight that x does not meet is an IRError."""
    if not x.rank or not weight.matches(packed_weight(x.shape[-1], weight, n, layout)):
        raise IRError(f"weight does not fit x in layout {layout}, n={n}", expected=str(x), found=str(weight))


def embedding_type(ids: TensorType, table: TensorType, n: int, layout: str) -> TensorType:
    """f32 [.., K] of a table of n rows; IRError if it is no table of that layout."""
    if table.rank < 2 or not table.is_static or layout not in LAYOUTS:
        raise IRError("a table is a static matrix in a known layout", found=f"{table}, {layout}")
    k = columns_of([static(d) for d in table.shape], layout)
    if not table.matches(packed_weight(k, table, n, layout)):
        raise IRError(f"table does not fit layout {layout}, n={n}", found=str(table))
    return tensor((*ids.shape, k), DType.F32)


linear, embed = Linear(), Embed()
