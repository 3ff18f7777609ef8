"""Tensor maps: what the GPU's copy engine needs to know of an array, made once at load."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

from warploom.errors import ArtifactError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.plan import TensorMapParam
from warploom.runtime.weights import numpy_dtype

BYTES = 128
_DATA_TYPES = {
    "bf16": "BFLOAT16",
    "f16": "FLOAT16",
    "f32": "FLOAT32",
    "f8e4m3": "UINT8",
    "i8": "UINT8",
    "u8": "UINT8",
    "i32": "INT32",
}
_SWIZZLES = ("NONE", "32B", "64B", "128B")


class TensorMap(NamedTuple):
    """A dense array as a kernel sees it through a tensor map.

    Attributes:
        opaque: the `CUtensorMap`, [128].
        shape, strides: in elements, outermost first.
    """

    opaque: bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def encode_tensor_map(driver: Driver, address: int, param: TensorMapParam, shape: Sequence[int]) -> TensorMap:
    """Return the tensor map of the array of `shape` at `address`.

    Raises:
        ArtifactError: the dtype has no tensor maps.
        DeviceError: the driver refuses the layout (rows must be multiples of 16 bytes).
    """
    if param.dtype not in _DATA_TYPES:
        raise ArtifactError("A tensor map has an unknown dtype", expected=", ".join(_DATA_TYPES), found=param.dtype)
    api = driver.api
    itemsize = numpy_dtype(param.dtype).itemsize
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.append(strides[-1] * extent)
    # The driver's lists begin with the innermost dim, whose stride it does not ask for. One number more than it reads
    # keeps the list of a one-dimensional array from being empty, which it refuses.
    outer_strides = [*strides[1:], strides[-1] * shape[0]]
    tensor_map = driver.call(
        "cuTensorMapEncodeTiled",
        getattr(api.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_DATA_TYPES[param.dtype]}"),
        len(shape),
        address,
        [api.cuuint64_t(extent) for extent in reversed(shape)],
        [api.cuuint64_t(stride * itemsize) for stride in outer_strides],
        [api.cuuint32_t(extent) for extent in reversed(param.box)],
        [api.cuuint32_t(1) for _ in shape],
        api.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(api.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{_SWIZZLES[param.swizzle]}"),
        api.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        api.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    return TensorMap(ctypes.string_at(tensor_map.getPtr(), BYTES), tuple(shape), tuple(reversed(strides)))
