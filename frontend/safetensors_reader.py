"""Safetensors files, read without torch.

The format (github.com/huggingface/safetensors, README "Format"): u64 little-endian header length, that many bytes of
JSON `{name: {dtype, shape, data_offsets: [begin, end]}}`, then the data that the offsets point into.
The header is parsed here rather than by the `safetensors` package because its errors name neither file nor sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.mapped_file import map_file, truncated
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

DTYPES: Mapping[str, str] = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8e4m3",
    "F8_E5M2": "f8e5m2",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "i1",
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class TensorHeader(msgspec.Struct):
    """Where a tensor lies among the data bytes: `data_offsets` = [begin, end)."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one `.safetensors` file, by name; no tensor data is read.

    Raises:
        CheckpointError: the file is missing, truncated, or its header is malformed.
        UnsupportedModelError: a tensor has a dtype outside `DTYPES`.
    """
    contents = map_file(path)
    start = _data_start(path, contents)
    headers = _parse_header(path, contents[8:start].tobytes())
    data_bytes = max((header.data_offsets[1] for header in headers.values()), default=0)
    if contents.size < start + data_bytes:
        raise truncated(path, expected_bytes=start + data_bytes, found_bytes=contents.size)
    data = contents[start:]
    return {name: _lazy_tensor(path, name, header, data) for name, header in headers.items()}


def _data_start(path: Path, contents: NDArray[np.uint8]) -> int:
    if contents.size < 8:
        raise truncated(path, expected_bytes=8, found_bytes=contents.size)
    header_bytes = int(contents[:8].view("<u8")[0])
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} is not a safetensors file",
            expected=f"a header of 2 to {MAX_HEADER_BYTES} bytes",
            found=f"a header length of {header_bytes}",
            fix="download the file again",
        )
    if contents.size < 8 + header_bytes:
        raise truncated(path, expected_bytes=8 + header_bytes, found_bytes=contents.size)
    return 8 + header_bytes


def _parse_header(path: Path, text: bytes) -> dict[str, TensorHeader]:
    try:
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {
            name: msgspec.json.decode(entry, type=TensorHeader)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the header of {path} is malformed",
            expected="JSON that gives dtype, shape and data_offsets of every tensor",
            found=str(error),
            fix="download the file again",
        ) from error


def _lazy_tensor(path: Path, name: str, header: TensorHeader, data: NDArray[np.uint8]) -> LazyTensor:
    dtype = DTYPES.get(header.dtype)
    if dtype is None:
        raise UnsupportedModelError(
            f"tensor {name} in {path} has a dtype that is not supported",
            expected=f"one of {', '.join(DTYPES)}",
            found=header.dtype,
            fix="convert the checkpoint to bfloat16, for example with transformers' save_pretrained",
        )
    begin, end = header.data_offsets
    num_bytes = prod(header.shape) * NUMPY_DTYPES[dtype].itemsize
    if min((*header.shape, begin, end - begin)) < 0 or end - begin != num_bytes:
        raise CheckpointError(
            f"tensor {name} in {path} does not fill its place in the file",
            expected=f"{num_bytes} bytes for {header.dtype} {list(header.shape)}",
            found=f"data_offsets {begin} to {end}",
            fix="download the file again",
        )
    read = partial(_view, data[begin:end], dtype, header.shape)
    return LazyTensor(name=name, shape=header.shape, dtype=dtype, source=str(path), read=read)


def _view(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Array:
    array: Array = np.frombuffer(data, dtype=NUMPY_DTYPES[dtype])
    return array.reshape(shape)
