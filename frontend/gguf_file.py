"""The GGUF container, versions 2 and 3: metadata and tensor table, then data.

Layout from ggml's docs/gguf.md: magic, u32 version, u64 tensor count, u64 key count, key/value pairs, tensor infos
(name, dims innermost first, kind, offset from the aligned start of data). Parsed here because `gguf.GGUFReader` makes
several numpy objects per token of the vocabulary (2.7 s for 49k tokens against about 50 ms) and answers a corrupt
file with a numpy traceback.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.mapped_file import map_file, truncated

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS = 4
STRING, ARRAY = 8, 9
SCALARS: Mapping[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
KINDS = tuple(
    GGMLQuantizationType[name]
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "MXFP4")
)

Value = bool | int | float | str | list["Value"]


@dataclass(frozen=True)
class GGUFTensor:
    """A stored tensor: `shape` is row-major (outermost first), `data` its bytes in the mapped file, [n] u8."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file holds; tensor data stays mapped."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GGUFTensor]


def read_gguf_file(path: Path) -> GGUFFile:
    """Parse the header of a GGUF file; no tensor data is read.

    Raises:
        CheckpointError: missing, truncated or corrupt file, or another container version.
        UnsupportedModelError: a tensor is quantized in a way outside `KINDS`.
    """
    contents = map_file(path)
    cursor = _Cursor(path, contents)
    _check_magic_and_version(cursor)
    num_tensors, num_keys = cursor.count(), cursor.count()
    metadata = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = _read_value(cursor, cursor.scalar("<I"))
    infos = [_read_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.corrupt("general.alignment", expected="a positive multiple of 8", found=repr(alignment))
    data_start = -(-cursor.position // alignment) * alignment
    tensors = {info.name: _place(info, data_start, path, contents) for info in infos}
    return GGUFFile(path=path, metadata=metadata, tensors=tensors)


@dataclass(frozen=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Cursor:
    """Reads little-endian values one after the other and never past the end of the file."""

    def __init__(self, path: Path, contents: NDArray[np.uint8]) -> None:
        self.path = path
        self.position = 0
        self._buffer = contents.data

    def take(self, num_bytes: int) -> memoryview:
        """The next `num_bytes` bytes."""
        begin, end = self.position, self.position + num_bytes
        if end > len(self._buffer):
            raise truncated(self.path, expected_bytes=end, found_bytes=len(self._buffer))
        self.position = end
        return self._buffer[begin:end]

    def scalar(self, code: str) -> int:
        """One integer of the given struct code."""
        return cast(int, struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def count(self) -> int:
        """A u64 number of things that follow, each at least one byte long."""
        value = self.scalar("<Q")
        if value > len(self._buffer) - self.position:
            raise self.corrupt("a count", expected=f"at most {len(self._buffer)}", found=str(value))
        return value

    def string(self) -> str:
        """A length-prefixed UTF-8 string."""
        raw = bytes(self.take(self.count()))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt("a string", expected="UTF-8", found=repr(raw[:40])) from error

    def corrupt(self, what: str, *, expected: str, found: str) -> CheckpointError:
        """The error for a value that no valid file has here."""
        return CheckpointError(
            f"GGUF file {self.path} is corrupt: {what} near byte {self.position}",
            expected=expected,
            found=found,
            fix="download the file again",
        )


def _check_magic_and_version(cursor: _Cursor) -> None:
    magic = bytes(cursor.take(4))
    if magic != MAGIC:
        raise CheckpointError(
            f"{cursor.path} is not a GGUF file",
            expected=f"magic bytes {MAGIC!r}",
            found=repr(magic),
            fix="give the folder that it lies in"
            if (cursor.path.parent / "config.json").is_file()
            else "download the file again",
        )
    version = cursor.scalar("<I")
    if version not in VERSIONS:
        byte_swapped = int.from_bytes(version.to_bytes(4, "big"), "little")
        raise CheckpointError(
            f"GGUF file {cursor.path} has a version that is not supported",
            expected=f"version {' or '.join(map(str, VERSIONS))}, little-endian",
            found=f"version {byte_swapped}, big-endian" if byte_swapped in VERSIONS else f"version {version}",
            fix="convert the model again with a current llama.cpp",
        )


def _read_value(cursor: _Cursor, kind: int) -> Value:
    if kind == STRING:
        return cursor.string()
    if kind == ARRAY:
        return _read_array(cursor)
    if kind in SCALARS:
        return cursor.scalar(SCALARS[kind])
    raise cursor.corrupt("a metadata value", expected="a type from 0 to 12", found=f"type {kind}")


def _read_array(cursor: _Cursor) -> Value:
    kind = cursor.scalar("<I")
    length = cursor.count()
    if kind in SCALARS:
        code = SCALARS[kind]
        return list(struct.unpack(f"<{length}{code[1]}", cursor.take(length * struct.calcsize(code))))
    if kind == STRING:
        return [cursor.string() for _ in range(length)]
    raise cursor.corrupt("an array", expected="elements that are numbers or strings", found=f"type {kind}")


def _read_tensor_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.string()
    num_dims = cursor.scalar("<I")
    if not 1 <= num_dims <= MAX_DIMS:
        raise cursor.corrupt(f"tensor {name}", expected=f"1 to {MAX_DIMS} dims", found=f"{num_dims} dims")
    innermost_first = [cursor.scalar("<Q") for _ in range(num_dims)]
    if 0 in innermost_first:
        raise cursor.corrupt(f"tensor {name}", expected="dims above 0", found=str(innermost_first))
    kind, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    return _TensorInfo(name, tuple(reversed(innermost_first)), kind, offset)


def _place(info: _TensorInfo, data_start: int, path: Path, contents: NDArray[np.uint8]) -> GGUFTensor:
    kind = next((kind for kind in KINDS if kind == info.kind), None)
    if kind is None:
        raise UnsupportedModelError(
            f"tensor {info.name} in {path} is quantized in a way that is not supported",
            expected=f"one of {', '.join(kind.name for kind in KINDS)}",
            found=_kind_name(info.kind),
            fix="take another quantization of the model, for example Q4_K_M or Q8_0",
        )
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    if info.shape[-1] % block_elements:
        raise CheckpointError(
            f"tensor {info.name} in {path} has rows that are not whole {kind.name} blocks",
            expected=f"a multiple of {block_elements} columns",
            found=str(list(info.shape)),
            fix="download the file again",
        )
    begin = data_start + info.offset
    end = begin + prod(info.shape) // block_elements * block_bytes
    if end > contents.size:
        raise truncated(path, expected_bytes=end, found_bytes=contents.size)
    return GGUFTensor(info.name, info.shape, kind, contents[begin:end])


def _kind_name(kind: int) -> str:
    try:
        return str(GGMLQuantizationType(kind).name)
    except ValueError:
        return f"unknown kind {kind}"
