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
        """The data, `shape` x `dtype`, C-contiguous and read-only where it is a view of the mapped file."""
        return self.read()


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
