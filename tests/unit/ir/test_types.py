"""Tensor types and attributes read back what they print."""

from __future__ import annotations

import ml_dtypes
import mlir.ir as mlir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind, decode, encode
from warploom.ir.context import new_context
from warploom.ir.dims import dim, shape
from warploom.ir.ops.shape import constant
from warploom.ir.types import DType, TensorType, parse_type, tensor, type_of

DIMS = st.integers(0, 99) | st.sampled_from(["T", "S+1", "2*T*P-3", "-T+8"]).map(dim)
TYPES = st.builds(TensorType, st.lists(DIMS, max_size=4).map(tuple), st.sampled_from(DType))


@given(st.lists(TYPES, max_size=3))
def test_types_round_trip_through_mlir(types: list[TensorType]) -> None:
    with new_context(), mlir.Location.unknown():
        for type_ in types:
            assert parse_type(str(type_)) == type_
            assert parse_type(str(type_.to_mlir())) == type_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor<?xf32>", "has no name"),
        ("tensor<*xf32>", "not a type"),
        ("tensor<4xf64>", "not a type"),
        ("memref<4xf32>", "not a type"),
        ('tensor<?x4xf32, #wl.dims<["T", 5]>>', "do not fit"),
        ('tensor<?x4xf32, #wl.dims<["T"]>>', "do not fit"),
        ("index", "not a type"),
    ],
)
def test_foreign_types_are_refused(text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        parse_type(text)


def test_malformed_types_are_refused() -> None:
    with pytest.raises(IRError, match="unknown dtype"):
        tensor((4,), "f64")
    with pytest.raises(IRError, match="negative"):
        tensor((-1,))


@pytest.mark.parametrize("dtype", DType)
def test_dtypes_have_one_numpy_counterpart(dtype: DType) -> None:
    assert DType.of(np.zeros(2, dtype.numpy)) is dtype
    assert dtype.is_float == (dtype in ("f32", "f16", "bf16", "f8e4m3"))


def test_a_foreign_numpy_dtype_is_refused() -> None:
    with pytest.raises(IRError, match="complex64"):
        DType.of(np.zeros(1, np.complex64))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INT, -3),
        (Kind.INT, 2**40),
        (Kind.FLOAT, 1e-5),
        (Kind.FLOAT, float("-inf")),
        (Kind.STR, 'a "quoted" name'),
        (Kind.INTS, ()),
        (Kind.INTS, (1, 0, 2)),
        (Kind.SHAPE, ()),
        (Kind.SHAPE, shape(["T", 4, "S+1"])),
    ],
)
def test_attributes_round_trip(wl: mlir.Context, kind: Kind, value: AttrValue) -> None:
    attribute = encode(kind, value)
    assert decode(kind, attribute) == value
    assert decode(kind, mlir.Attribute.parse(str(attribute))) == value


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-1, 1, 5, dtype=np.float32),
        np.ones((2, 3), np.float32),  # a splat
        np.array(2.5, np.float32),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        np.array([1, -2], np.int32),
        np.array([[2**40]], np.int64),
        np.array([-128, 127], np.int8),
        np.array([0.5, -3], np.float16),
        np.array([True, False, True]),
        np.array([[True, True]]),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_constants_round_trip(wl: mlir.Context, array: np.ndarray) -> None:
    attribute = encode(Kind.ARRAY, array)
    for found in (decode(Kind.ARRAY, attribute), decode(Kind.ARRAY, mlir.Attribute.parse(str(attribute)))):
        assert isinstance(found, np.ndarray)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_a_bf16_constant_is_refused(wl: mlir.Context) -> None:
    with pytest.raises(IRError, match="bf16"):
        constant(value=np.array([0.5], ml_dtypes.bfloat16))


def test_a_value_knows_its_type(wl: mlir.Context) -> None:
    wanted = tensor(("T", 4), "bf16")
    module = mlir.Module.parse("func.func @f() { return }")
    block = module.body.operations[0].regions[0].blocks[0]
    assert type_of(block.add_argument(wanted.to_mlir(), mlir.Location.unknown())) == wanted
