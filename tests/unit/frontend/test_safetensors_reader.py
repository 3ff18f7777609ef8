"""Safetensors checkpoints: values, laziness, shards, and every way in which a file can be broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.safetensors_reader import read_safetensors
from warploom.frontend.shards import read_shards


def write_raw(path: Path, header: dict[str, Any], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("f32", np.float32),
        ("f16", np.float16),
        ("bf16", ml_dtypes.bfloat16),
        ("f64", np.float64),
        ("i8", np.int8),
        ("u8", np.uint8),
        ("i64", np.int64),
        ("i1", np.bool_),
    ],
)
def test_gives_the_values_that_were_saved(tmp_path: Path, name: str, dtype: type[np.generic]) -> None:
    values = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    save_file({"weight": values}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensor = read_safetensors(tmp_path / "model.safetensors")["weight"]
    assert (tensor.name, tensor.shape, tensor.dtype) == ("weight", (3, 4), name)
    loaded = tensor.load()
    assert loaded.dtype == values.dtype
    np.testing.assert_array_equal(loaded, values)


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    header = {
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [4, 4]},
    }
    tensors = read_safetensors(write_raw(tmp_path / "m.safetensors", header, struct.pack("<f", 2.5)))
    assert tensors["scalar"].load() == np.float32(2.5)
    assert tensors["empty"].load().shape == (0, 3)


def test_data_is_read_on_load_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(4, np.float32)}, path)
    tensor = read_safetensors(path)["weight"]
    with path.open("r+b") as file:
        file.seek(-16, 2)
        file.write(np.full(4, 7, np.float32).tobytes())
    np.testing.assert_array_equal(tensor.load(), np.full(4, 7, np.float32))


def test_loaded_views_cannot_be_written(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(4, np.float32)}, tmp_path / "m.safetensors")
    loaded = read_safetensors(tmp_path / "m.safetensors")["weight"].load()
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1


def test_truncated_file_names_file_and_sizes(tmp_path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    with pytest.raises(CheckpointError, match="truncated") as caught:
        read_safetensors(path)
    assert str(path) in caught.value.what
    assert caught.value.expected == f"{size} bytes"
    assert caught.value.found == f"{size - 100} bytes"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "truncated"),
        (b"abc", "truncated"),
        (struct.pack("<Q", 500) + b"{}", "truncated"),
        (b"<!DOCTYPE html><html>not found</html>", "not a safetensors file"),
        (struct.pack("<Q", 9) + b'{"a": [1}' + bytes(8), "malformed"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "malformed"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "malformed"),
    ],
)
def test_broken_header_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]},
    ],
)
def test_tensor_that_does_not_fit_its_bytes(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = write_raw(tmp_path / "m.safetensors", {"weight": entry}, bytes(16))
    with pytest.raises(CheckpointError, match="weight"):
        read_safetensors(path)


def test_unknown_dtype_lists_the_known(tmp_path: Path) -> None:
    header = {"weight": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}
    with pytest.raises(UnsupportedModelError, match="BF16"):
        read_safetensors(write_raw(tmp_path / "m.safetensors", header, bytes(1)))


class TestShards:
    """Checkpoints of several files with an index."""

    @pytest.fixture
    def index(self, tmp_path: Path, tensors: dict[str, NDArray[np.float32]]) -> Path:
        names = list(tensors)
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for shard, members in shards.items():
            save_file({name: tensors[name] for name in members}, tmp_path / shard)
        index = tmp_path / "model.safetensors.index.json"
        weight_map = {name: shard for shard, members in shards.items() for name in members}
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return index

    def test_gives_the_tensors_of_all_shards(self, index: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
        read = read_shards(index, read_safetensors)
        assert read.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(read[name].load(), values)

    def test_missing_shard_is_named(self, index: Path) -> None:
        (index.parent / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
            read_shards(index, read_safetensors)

    def test_tensor_missing_from_its_shard_is_named(self, index: Path) -> None:
        save_file({"other": np.zeros(1, np.float32)}, index.parent / "model-00002-of-00002.safetensors")
        with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors lacks a tensor"):
            read_shards(index, read_safetensors)

    @pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"weights": {}}'])
    def test_malformed_index(self, index: Path, text: str) -> None:
        index.write_text(text)
        with pytest.raises(CheckpointError, match="index"):
            read_shards(index, read_safetensors)

    @pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors"])
    def test_shards_outside_the_folder_are_refused(self, index: Path, shard: str) -> None:
        index.write_text(json.dumps({"weight_map": {"weight": shard}}))
        with pytest.raises(CheckpointError, match="outside its folder"):
            read_shards(index, read_safetensors)
