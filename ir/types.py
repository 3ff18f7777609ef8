"""Tensor types of the dialect: a dtype and a shape of integers and symbols, to and from MLIR's builtin tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import ml_dtypes
import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.dims import Dim, DimLike, Shape, dim, resolve, same_shape, shape


class DType(StrEnum):
    """Element types; the value is the MLIR spelling but for F8. Integers are signless and read as signed.

    F8 is the E4M3 of OCP without infinities, up to 448 (MLIR: f8E4M3FN). I4 is of weights on their way through
    `@prepare`: packed two a byte (see `layouts.py`) they are I8.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    F8 = "f8e4m3"
    I1 = "i1"
    I4 = "i4"
    I8 = "i8"
    I32 = "i32"
    I64 = "i64"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype; bf16 is ml_dtypes' extension type."""
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        """Whether values are floating point."""
        return self in FLOATS or self is DType.F8

    @classmethod
    def of(cls, array: np.ndarray) -> DType:
        """The dtype of a numpy array.

        Raises:
            IRError: the array's dtype has no counterpart.
        """
        for dtype, candidate in _NUMPY.items():
            if candidate == array.dtype:
                return dtype
        raise IRError(f"numpy dtype {array.dtype} is not supported", expected=", ".join(DType))


FLOATS = frozenset({DType.F32, DType.F16, DType.BF16})
INTS = frozenset({DType.I8, DType.I32, DType.I64})
BITS = frozenset({DType.I1, DType.I32})
QUANTIZED = frozenset({DType.I4, DType.I8, DType.F8})
ALL = FLOATS | INTS | {DType.I1}  # what ops on any values take
STORED = ALL | QUANTIZED  # what weights can be

_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.F8: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.I1: np.dtype(np.bool_),
    DType.I4: np.dtype(ml_dtypes.int4),
    DType.I8: np.dtype(np.int8),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
}


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of a value."""

    shape: Shape
    dtype: DType

    def __post_init__(self) -> None:
        if any(isinstance(d, int) and d < 0 for d in self.shape):
            raise IRError("a dimension is negative", found=str(self.shape))

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether no dimension is symbolic."""
        return all(isinstance(d, int) for d in self.shape)

    def with_shape(self, dims: Sequence[DimLike | str]) -> TensorType:
        """The same dtype with another shape."""
        return TensorType(shape(dims), self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another dtype."""
        return TensorType(self.shape, dtype)

    def matches(self, other: TensorType) -> bool:
        """Equal dtype and (decidably) equal shape."""
        return self.dtype == other.dtype and same_shape(self.shape, other.shape)

    def resolve(self, env: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape under symbol values."""
        return tuple(resolve(d, env) for d in self.shape)

    def __str__(self) -> str:
        sizes = "".join(f"{'?' if isinstance(d, Dim) else d}x" for d in self.shape)
        names = ", ".join(f'"{d}"' if isinstance(d, Dim) else str(d) for d in self.shape)
        encoding = f", #wl.dims<[{names}]>" if any(isinstance(d, Dim) for d in self.shape) else ""
        return f"tensor<{sizes}{F8_IN_MLIR if self.dtype is DType.F8 else self.dtype}{encoding}>"

    def to_mlir(self) -> mlir.Type:
        """The MLIR type in the current context."""
        return mlir.Type.parse(str(self))


def tensor(dims: Sequence[DimLike | str], dtype: DType | str = DType.F32) -> TensorType:
    """A tensor type from integers, symbols and expressions.

    Raises:
        IRError: there is no such dtype, or a dimension is negative or malformed.
    """
    if dtype not in list(DType):
        raise IRError(f"unknown dtype {dtype!r}", expected=", ".join(DType))
    return TensorType(shape(dims), DType(dtype))


def type_of(value: mlir.Value) -> TensorType:
    """The tensor type of an MLIR value.

    Raises:
        IRError: the value is no tensor, or a dynamic dimension has no name.
    """
    return parse_type(str(value.type))


F8_IN_MLIR = "f8E4M3FN"
_TENSOR = re.compile(r"tensor<((?:(?:\d+|\?)x)*)(\w+)(?:, #wl\.dims<\[(.*)\]>)?>")


@lru_cache(maxsize=4096)
def parse_type(text: str) -> TensorType:
    """Read the MLIR spelling of a tensor type; see `type_of` for errors."""
    found = _TENSOR.fullmatch(text)
    element = found and {F8_IN_MLIR: "f8e4m3"}.get(found[2], found[2])
    if found is None or element not in list(DType):
        raise IRError(f"{text} is not a type of this dialect", expected="a ranked tensor of " + ", ".join(DType))
    sizes, dtype, names = found[1].split("x")[:-1], DType(element), found[3]
    if names is not None:
        dims = [dim(n.strip().strip('"')) if '"' in n else int(n) for n in names.split(",")]
        static = [d for d in dims if isinstance(d, int)]
        if len(dims) != len(sizes) or static != [int(s) for s in sizes if s != "?"]:
            raise IRError(f"{text}: the names of the dimensions do not fit the shape")
        return TensorType(tuple(dims), dtype)
    if "?" in sizes:
        raise IRError(f"{text}: a dynamic dimension has no name", fix='add an encoding such as #wl.dims<["T", 64]>')
    return TensorType(tuple(int(s) for s in sizes), dtype)
