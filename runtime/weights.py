"""Weight files: safetensors shards, read by memory map and written as a stream.

Format: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header, data).
Ours also start every tensor on a 64-byte boundary of the file. The format forbids holes between tensors, so a
gap is declared as a small tensor named `__padding__.<n>`, which our reader skips and others see as it is.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from warploom.errors import ArtifactError

ALIGNMENT = 64
PADDING = "__padding__."
# The header is written last but sits first: its room is reserved, and a shard that fills it is closed.
HEADER_BYTES = 128 * 1024

# plan dtype -> (safetensors dtype, numpy dtype). numpy has no bfloat16 and no 8-bit floats: they are their bits.
_DTYPES = {
    "f32": ("F32", "<f4"),
    "f16": ("F16", "<f2"),
    "bf16": ("BF16", "<u2"),
    "f8e4m3": ("F8_E4M3", "u1"),
    "i64": ("I64", "<i8"),
    "i32": ("I32", "<i4"),
    "i8": ("I8", "i1"),
    "u8": ("U8", "u1"),
    "i1": ("BOOL", "?"),
}
_NUMPY_OF_FILE = {stored: np.dtype(array) for stored, array in _DTYPES.values()}
# ml_dtypes' types are recognised by their names, so that we need not import it.
_FOREIGN = {"bfloat16": "bf16", "float8_e4m3fn": "f8e4m3"}
_PLAN_OF_ARRAY = {
    np.dtype(array).name: plan for plan, (_, array) in _DTYPES.items() if plan not in _FOREIGN.values()
} | _FOREIGN


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return how numpy holds elements of a plan dtype (bf16 and f8e4m3 as bits); ArtifactError if unknown."""
    if dtype not in _DTYPES:
        raise ArtifactError("The plan has an unknown dtype", expected=", ".join(_DTYPES), found=dtype)
    return np.dtype(_DTYPES[dtype][1])


class _TensorInfo(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of one shard by name, as read-only arrays over a memory map (bf16 and f8e4m3 as bits).

    Raises:
        ArtifactError: the header is corrupt, or a tensor does not fit its place in the file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise _corrupt(path, f"a file of {size} bytes")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data.madvise(mmap.MADV_WILLNEED)
    start = 8 + int.from_bytes(data[:8], "little")
    if start > size:
        raise _corrupt(path, f"a header of {start - 8} bytes in a file of {size} bytes")
    try:
        header = msgspec.json.decode(data[8:start], type=dict[str, msgspec.Raw])
        infos = {
            name: msgspec.json.decode(raw, type=_TensorInfo)
            for name, raw in header.items()
            if name != "__metadata__" and not name.startswith(PADDING)
        }
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _corrupt(path, str(error)) from error
    return {name: _map_tensor(path, data, start, name, info) for name, info in infos.items()}


def _map_tensor(path: Path, data: mmap.mmap, start: int, name: str, info: _TensorInfo) -> NDArray[Any]:
    """View one tensor of the file whose data section begins at byte `start`."""
    dtype = _NUMPY_OF_FILE.get(info.dtype)
    if dtype is None:
        raise _corrupt(path, f"tensor {name!r} of unknown dtype {info.dtype!r}")
    begin, end = info.data_offsets
    count = math.prod(info.shape)
    if not (0 <= begin <= end <= len(data) - start and min(info.shape, default=0) >= 0):
        raise _corrupt(path, f"tensor {name!r} at bytes {begin}..{end} of {len(data) - start}")
    if end - begin != count * dtype.itemsize:
        raise _corrupt(path, f"tensor {name!r} of shape {info.shape} {info.dtype} in {end - begin} bytes")
    return np.frombuffer(data, dtype, count, start + begin).reshape(info.shape)


def _corrupt(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        f"The weight file {path} is corrupt",
        expected="a safetensors header and the data that it describes",
        found=found,
        fix="copy the artifact again, or compile the model again",
    )


class WeightsWriter:
    """Writes `<folder>/00000.safetensors`, `00001...`, one parameter at a time, in bounded memory.

    Args:
        folder: an existing folder.
        shard_bytes: a shard is closed before the parameter that would make its data larger than this; one
            larger parameter gets a shard of its own.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.paths: list[Path] = []
        self._folder, self._shard_bytes = folder, shard_bytes
        self._names: set[str] = set()
        self._file: BinaryIO | None = None
        self._header: dict[str, dict[str, Any]] = {}
        self._data_bytes = 0
        self._header_room = 0

    def add(self, name: str, array: NDArray[Any], dtype: str | None = None) -> None:
        """Append one parameter.

        Args:
            array: any shape; made contiguous here.
            dtype: its plan dtype; None: that of the array (needed only for arrays of bits).

        Raises:
            ArtifactError: a name used before, or a dtype that no plan knows.
            OSError: the disk.
        """
        stored = self._stored_dtype(name, array, dtype)
        entry_room = len(json.dumps(name)) + 20 * array.ndim + 160  # with its padding entry
        full = self._data_bytes + array.nbytes > self._shard_bytes or entry_room > self._header_room
        if self._file is None or full:
            self.close()
            self._open()
        self._header_room -= entry_room
        self._names.add(name)
        self._append(name, array.shape, stored, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        gap = -self._data_bytes % ALIGNMENT
        if gap:
            self._append(f"{PADDING}{len(self._header)}", (gap,), "U8", np.zeros(gap, np.uint8))

    def close(self) -> None:
        """Write the open shard's header into its reserved room and sync the shard to disk."""
        if self._file is None:
            return
        header = json.dumps(self._header, separators=(",", ":")).encode()
        room = HEADER_BYTES - 8
        with self._file as file:
            file.seek(0)
            file.write(room.to_bytes(8, "little") + header.ljust(room))
            file.flush()
            os.fsync(file.fileno())
        self._file = None

    def discard(self) -> None:
        """Let go of the open shard without finishing it."""
        if self._file is not None:
            self._file.raw.close()  # type: ignore[attr-defined]  # not flushing: the disk may be full
            self._file = None

    def _stored_dtype(self, name: str, array: NDArray[Any], dtype: str | None) -> str:
        plan = dtype or _PLAN_OF_ARRAY.get(array.dtype.name)
        if name in self._names or name.startswith(PADDING) or name == "__metadata__":
            raise ArtifactError(f"The parameter name {name!r} is used twice or reserved")
        if plan not in _DTYPES or np.dtype(_DTYPES[plan][1]).itemsize != array.dtype.itemsize:
            raise ArtifactError(
                f"The parameter {name!r} cannot be stored",
                expected=f"dtype {', '.join(_DTYPES)}, as wide as the array's elements",
                found=f"dtype {dtype} for an array of {array.dtype}",
            )
        return _DTYPES[plan][0]

    def _open(self) -> None:
        path = self._folder / f"{len(self.paths):05}.safetensors"
        self._file = path.open("xb")
        self.paths.append(path)
        self._file.write(bytes(HEADER_BYTES))
        self._header, self._data_bytes, self._header_room = {}, 0, HEADER_BYTES - 1024

    def _append(self, name: str, shape: tuple[int, ...], stored: str, data: NDArray[np.uint8]) -> None:
        assert self._file is not None
        end = self._data_bytes + data.nbytes
        self._file.write(data.data)
        self._header[name] = {"dtype": stored, "shape": shape, "data_offsets": (self._data_bytes, end)}
        self._data_bytes = end
