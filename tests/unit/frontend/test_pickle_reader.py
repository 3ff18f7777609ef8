"""Pickled PyTorch checkpoints, and that they cannot run code."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.pickle_reader import read_pickle
from warploom.frontend.shards import read_shards


@pytest.mark.parametrize(
    ("name", "dtype", "numpy_dtype"),
    [
        ("f32", torch.float32, np.float32),
        ("f16", torch.float16, np.float16),
        ("bf16", torch.bfloat16, ml_dtypes.bfloat16),
        ("i64", torch.int64, np.int64),
        ("i1", torch.bool, np.bool_),
    ],
)
def test_gives_the_values_that_were_saved(
    tmp_path: Path, name: str, dtype: torch.dtype, numpy_dtype: type[np.generic]
) -> None:
    values = torch.arange(-6, 6).reshape(3, 4).to(dtype)
    torch.save({"weight": values}, tmp_path / "pytorch_model.bin")
    tensor = read_pickle(tmp_path / "pytorch_model.bin")["weight"]
    assert (tensor.name, tensor.shape, tensor.dtype) == ("weight", (3, 4), name)
    expected = np.arange(-6, 6).reshape(3, 4).astype(numpy_dtype)
    assert tensor.load().dtype == expected.dtype
    np.testing.assert_array_equal(tensor.load(), expected)


def test_strided_parameters_and_the_old_format(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    torch.save({"weight": parameter}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_pickle(tmp_path / "old.bin")["weight"].load(), [[0, 3], [1, 4], [2, 5]])


def test_shards(tmp_path: Path) -> None:
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for value, (name, shard) in enumerate(weight_map.items()):
        torch.save({name: torch.full((2,), float(value))}, tmp_path / shard)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    read = read_shards(index, read_pickle)
    assert {name: tensor.load().tolist() for name, tensor in read.items()} == {"a": [0, 0], "b": [1, 1]}


class Malicious:
    """What an attacker would pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (builtins.exec, ("raise SystemExit('code of the checkpoint ran')",))


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as a pickled"):
        read_pickle(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"weight": 3}, {"model": {"weight": torch.zeros(1)}}])
def test_what_is_not_a_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a state dict"):
        read_pickle(tmp_path / "pytorch_model.bin")


def test_truncated_garbage_empty_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(CheckpointError, match="missing"):
        read_pickle(path)
    path.touch()
    with pytest.raises(CheckpointError, match="truncated"):
        read_pickle(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match=str(path)):
        read_pickle(path)
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="2000 bytes"):
        read_pickle(path)


def test_unknown_dtype_lists_the_known(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="bfloat16"):
        read_pickle(tmp_path / "pytorch_model.bin")


def test_without_torch_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(1)}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match="pip install torch"):
        read_pickle(path)
