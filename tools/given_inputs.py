"""Inputs that are given to `warploom run`: held to their types and, as kernels trust them, to what they may address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from warploom.errors import InvalidRequestError, IRError
from warploom.ir.dims import bind
from warploom.ir.function import Function
from warploom.ir.types import DType, TensorType, type_of

Arrays = dict[str, np.ndarray]


def read_inputs(path: Path | None, function: Function) -> Arrays:
    """The arrays of an .npz file, in the dtypes of the inputs that they are named like; floats may be f32.

    Raises:
        InvalidRequestError: the file cannot be read, or holds what is no input of the entry or of another type.
    """
    if path is None:
        return {}
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is an .npy file
        raise InvalidRequestError(f"{path} cannot be read", expected="an .npz file", found=str(error)) from error
    unknown = sorted(arrays.keys() - set(function.input_names))
    if unknown:
        raise InvalidRequestError(
            f"{path} holds no inputs of this entry",
            expected=", ".join(function.input_names),
            found=", ".join(unknown),
        )
    return {name: _typed(name, array, type_of(function.inputs[name])) for name, array in arrays.items()}


def _typed(name: str, array: np.ndarray, type_: TensorType) -> np.ndarray:
    wanted = type_.dtype.numpy
    if type_.dtype.is_float and array.dtype == DType.F32.numpy:  # numpy stores no bf16
        array = array.astype(wanted)
    if array.dtype != wanted or array.ndim != type_.rank:
        raise InvalidRequestError(
            f"the input {name} has another type", expected=str(type_), found=f"{array.dtype.name} {list(array.shape)}"
        )
    return array


def dims_of(function: Function, given: Arrays) -> dict[str, int]:
    """The symbols that the shapes of given inputs decide.

    Raises:
        InvalidRequestError: one does not have its static shape, or two disagree.
    """
    found: dict[str, int] = {}
    for name, array in given.items():
        try:
            bind([type_of(function.inputs[name]).shape], [array.shape], found)
        except IRError as error:
            raise InvalidRequestError(
                f"the input {name} has another shape", expected=error.expected, found=str(list(array.shape))
            ) from error
    return found


def check_places(arrays: Mapping[str, np.ndarray], page_size: int) -> None:
    """Refuse inputs of @step that point outside of what they point into: native code would read or write there.

    Raises:
        InvalidRequestError: naming the first that does.
    """
    if "page_table" not in arrays or "kv" not in arrays:
        return
    pages = arrays["kv"].shape[1]
    tokens = len(arrays["token_ids"]) if "token_ids" in arrays else int(arrays["query_start"][-1])
    room = arrays["page_table"].shape[1] * page_size
    bounds = {
        "page_table": (0, pages - 1),
        "slots": (-1, pages * page_size - 1),
        "logit_rows": (0, tokens - 1),
        "query_start": (0, tokens),
        "context_lens": (0, room),
    }
    for name, (low, high) in bounds.items():
        array = arrays.get(name)
        if array is not None and array.size and not (low <= array.min() and array.max() <= high):
            raise _outside(name, f"numbers from {low} to {high}", array)
    starts = arrays["query_start"]
    if starts[0] != 0 or (np.diff(starts) < 0).any():
        raise _outside("query_start", "0, then rising numbers", starts)
    if (np.diff(starts) > arrays["context_lens"]).any():
        raise _outside("context_lens", "at least the tokens of each sequence in this step", arrays["context_lens"])


def _outside(name: str, expected: str, array: np.ndarray) -> InvalidRequestError:
    return InvalidRequestError(f"the input {name} is not possible", expected=expected, found=str(array.tolist())[:200])
