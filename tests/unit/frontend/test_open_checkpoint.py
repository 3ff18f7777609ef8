"""`open_checkpoint` on folders and files, and what it does not do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.unit.frontend.tiny_checkpoints import GGUFContents, tiny_config
from warploom.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from warploom.frontend.checkpoint import open_checkpoint

Tensors = dict[str, NDArray[np.float32]]


def test_folder_with_safetensors(hf_folder: Path, tensors: Tensors) -> None:
    save_file(tensors, hf_folder / "model.safetensors")
    checkpoint = open_checkpoint(hf_folder)
    assert checkpoint.model_id == str(hf_folder)
    assert checkpoint.config == tiny_config()
    assert checkpoint.generation["temperature"] == 0.6
    assert checkpoint.tokenizer.eos_token_ids == (2, 0)
    for name, values in tensors.items():
        np.testing.assert_array_equal(checkpoint.require(name, values.shape).load(), values)


def test_the_formats_agree(
    hf_folder: Path, tensors: Tensors, write_gguf: Callable[[GGUFContents], Path], gguf_contents: GGUFContents
) -> None:
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, hf_folder / "pytorch_model.bin")
    pickled, gguf = open_checkpoint(hf_folder), open_checkpoint(str(write_gguf(gguf_contents)))
    assert pickled.tensors.keys() == gguf.tensors.keys()
    for name, tensor in pickled.tensors.items():
        np.testing.assert_array_equal(tensor.load(), gguf.tensors[name].load())
    assert pickled.config.items() <= gguf.config.items()
    assert pickled.tokenizer.chat_template == gguf.tokenizer.chat_template


def test_safetensors_win_over_pickles(hf_folder: Path, tensors: Tensors) -> None:
    save_file(tensors, hf_folder / "model.safetensors")
    (hf_folder / "pytorch_model.bin").write_bytes(b"never read")
    assert open_checkpoint(hf_folder).tensors.keys() == tensors.keys()


def test_sharded_folder(hf_folder: Path, tensors: Tensors) -> None:
    shard = "model-00001-of-00001.safetensors"
    save_file(tensors, hf_folder / shard)
    index = {"weight_map": dict.fromkeys(tensors, shard)}
    (hf_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_checkpoint(hf_folder).tensors.keys() == tensors.keys()


class TestRequire:
    """Checked access to a tensor."""

    def test_wrong_shape_says_both(self, hf_folder: Path, tensors: Tensors) -> None:
        save_file(tensors, hf_folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight .* wrong shape") as caught:
            open_checkpoint(hf_folder).require("model.norm.weight", (64,))
        assert (caught.value.expected, caught.value.found) == ("[64]", "[256]")

    def test_missing_names_the_nearest(self, hf_folder: Path, tensors: Tensors) -> None:
        save_file(tensors, hf_folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="missing") as caught:
            open_checkpoint(hf_folder).require("model.norms.weight", (64,))
        assert "model.norm.weight" in str(caught.value.found)


def test_folder_without_config_or_weights(hf_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(hf_folder)
    (hf_folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match="not a model folder"):
        open_checkpoint(hf_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufffe"])
def test_malformed_config(hf_folder: Path, text: str) -> None:
    (hf_folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(hf_folder)


def test_quantized_folder_is_refused_by_name(hf_folder: Path) -> None:
    config = tiny_config() | {"quantization_config": {"quant_method": "bitsandbytes", "bits": 4}}
    (hf_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="quantized") as caught:
        open_checkpoint(hf_folder)
    assert caught.value.found == "bitsandbytes"


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "nowhere.gguf/", "mödel"])
def test_paths_to_nothing(path: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no model at"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["model.gguf", "folder/model.gguf"])
def test_missing_gguf_file_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no model at"):
        open_checkpoint(name)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_checkpoint(tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the folder that it lies in"):
        open_checkpoint(tmp_path / "model.onnx")


def test_heavy_packages_are_imported_only_when_needed(hf_folder: Path, tensors: Tensors) -> None:
    save_file(tensors, hf_folder / "model.safetensors")
    program = (
        "import sys; from warploom.frontend.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(hf_folder)!r}).tensors['model.norm.weight'].load(); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'mlir'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
