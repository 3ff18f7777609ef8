"""The kinds of attribute values and their MLIR form."""

from __future__ import annotations

from enum import Enum

import mlir.ir as mlir
import numpy as np

from warploom.ir.dims import Dim, DimLike, dim

AttrValue = int | float | bool | str | tuple[int, ...] | tuple[DimLike | str, ...] | np.ndarray


class Kind(Enum):
    """Python kind of an attribute; the value is the base attribute that IRDL checks."""

    INT = "#builtin.integer"
    FLOAT = "#builtin.float"
    STR = "#builtin.string"
    INTS = "#builtin.dense_array"
    SHAPE = "#builtin.array"  # integers and, for symbols, strings
    ARRAY = "#builtin.dense_typed_array"  # a small numpy array, stored as dense elements


def encode(kind: Kind, value: AttrValue) -> mlir.Attribute:
    """The MLIR attribute of a Python value, in the current context."""
    match kind:
        case Kind.INT:
            return mlir.IntegerAttr.get(mlir.IntegerType.get_signless(64), int(value))  # type: ignore[arg-type]
        case Kind.FLOAT:
            return mlir.FloatAttr.get(mlir.F64Type.get(), float(value))  # type: ignore[arg-type]
        case Kind.STR:
            return mlir.StringAttr.get(str(value))
        case Kind.INTS:
            return mlir.DenseI64ArrayAttr.get(list(value))  # type: ignore[arg-type]
        case Kind.SHAPE:
            return mlir.ArrayAttr.get([_encode_dim(d) for d in value])  # type: ignore[union-attr]
        case Kind.ARRAY:
            assert isinstance(value, np.ndarray)
            return mlir.DenseElementsAttr.get(np.ascontiguousarray(value))


def decode(kind: Kind, attribute: mlir.Attribute) -> AttrValue:
    """The Python value of an MLIR attribute."""
    match kind:
        case Kind.INT | Kind.FLOAT | Kind.STR:
            return attribute.value
        case Kind.INTS:
            return tuple(attribute)
        case Kind.SHAPE:
            return tuple(dim(a.value) for a in attribute)
        case Kind.ARRAY:
            return np.array(attribute)


def _encode_dim(value: DimLike | str) -> mlir.Attribute:
    value = dim(value)
    if isinstance(value, Dim):
        return mlir.StringAttr.get(str(value))
    return mlir.IntegerAttr.get(mlir.IntegerType.get_signless(64), value)
