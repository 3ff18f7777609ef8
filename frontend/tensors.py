"""Tensors that stay in their file until somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from warploom.errors import CheckpointError

Array = NDArray[np.generic]

NUMPY_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "i1": np.dtype(np.bool_),
}

# The bits that are all set in NaN and, where a type has them, infinities, and in no other number.
_BEYOND_NUMBERS = {
    NUMPY_DTYPES[name]: bits
    for name, bits in {
        "f64": 0x7FF0000000000000,
        "f32": 0x7F800000,
        "f16": 0x7C00,
        "bf16": 0x7F80,
        "f8e4m3": 0x7F,
        "f8e5m2": 0x7C,
    }.items()
}
_CHUNK = 1 << 18  # numbers that are looked at together: they and their bits stay in L2


@dataclass(frozen=True)
class LazyTensor:
    """A named tensor whose data is read on `load()`.

    Attributes:
        name: its name in Hugging Face's scheme (`model.layers.0.self_attn.q_proj.weight`).
        shape: sizes in row-major order, as `load()` will give them.
        dtype: element type of what `load()` gives, a key of `NUMPY_DTYPES`.
        source: the file it lives in, for messages.
        read: gives the data.
        parts: of a quantized weight its numbers, scales and maybe offsets, which stand for the same data.
        order: i32 [k], where the columns of the parts are in another order: the i-th is column order[i] of the data.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: str
    read: Callable[[], Array] = field(repr=False)
    parts: tuple[LazyTensor, ...] = ()
    order: LazyTensor | None = None

    def load(self) -> Array:
        """The data, `shape` x `dtype`, C-contiguous and read-only where it is a view of the mapped file.

        Raises:
            CheckpointError: a float is NaN or infinite.
        """
        array = self.read()
        if not is_finite(array):
            with np.errstate(invalid="ignore"):  # signalling NaNs
                where = np.argwhere(~np.isfinite(array))
            raise CheckpointError(
                f"tensor {self.name} in {self.source} holds numbers that are not finite",
                expected=f"finite {self.dtype}",
                found=f"{len(where)} of {array.size}, the first at {where[0].tolist()}: {array[tuple(where[0])]}",
                fix="download the model again; if its authors publish it so, it cannot answer",
            )
        return array


def is_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite; what is not of floats has none. 12 GB/s, in little memory."""
    mask = _BEYOND_NUMBERS.get(array.dtype)
    if mask is None:
        return True
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    wanted, room = bits.dtype.type(mask), np.empty(min(_CHUNK, bits.size), bits.dtype)
    chunks = (bits[start : start + _CHUNK] for start in range(0, bits.size, _CHUNK))
    return all(np.bitwise_and(chunk, wanted, out=room[: chunk.size]).max() != wanted for chunk in chunks)


class MissingTensorError(CheckpointError):
    """There is no tensor of that name."""


def require(tensors: Mapping[str, LazyTensor], name: str, shape: tuple[int, ...]) -> LazyTensor:
    """The tensor `name`, which must have exactly `shape`.

    Raises:
        MissingTensorError: there is no such tensor.
        CheckpointError: its shape differs.
    """
    tensor = tensors.get(name)
    if tensor is None:
        nearest = get_close_matches(name, tensors, n=3)
        raise MissingTensorError(
            f"tensor {name} is missing from the checkpoint",
            expected=f"{name} {list(shape)}",
            found=f"{len(tensors)} tensors, nearest: {', '.join(nearest) or 'none'}",
            fix="check that config.json belongs to these weights, or download the model again",
        )
    if tensor.shape != shape:
        raise CheckpointError(
            f"tensor {name} in {tensor.source} has the wrong shape",
            expected=str(list(shape)),
            found=str(list(tensor.shape)),
            fix="check that config.json belongs to these weights, or download the model again",
        )
    return tensor
