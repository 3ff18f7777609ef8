"""A model as it was published, whatever it was published as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warploom.errors import CheckpointError, ModelNotFoundError
from warploom.frontend import tensors
from warploom.frontend.gguf_config import config_from_gguf
from warploom.frontend.gguf_file import read_gguf_file
from warploom.frontend.gguf_reader import expanded_kinds, read_gguf_tensors
from warploom.frontend.gguf_tokenizer import tokenizer_from_gguf
from warploom.frontend.hub import fetch_model, is_hub_id
from warploom.frontend.json_file import read_json, read_json_if_present
from warploom.frontend.pickle_reader import read_pickle
from warploom.frontend.quantized.format import format_of, read_quantized
from warploom.frontend.safetensors_reader import read_safetensors
from warploom.frontend.shards import read_shards
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.tokenizer import TokenizerFiles, tokenizer_from_folder


@dataclass(frozen=True)
class Checkpoint:
    """A model's config, weights and tokenizer; weights stay in their files until loaded.

    Attributes:
        model_id: what the user called it.
        config: as in Hugging Face's `config.json`; for a GGUF, made from its metadata.
        tensors: by Hugging Face name.
        tokenizer: see TokenizerFiles.
        generation: the model's `generation_config.json`, its own sampling defaults among it; empty if it has none.
        notes: of what the scheme `checkpoint` cannot keep as it is stored.
    """

    model_id: str
    config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    tokenizer: TokenizerFiles
    generation: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def require(self, name: str, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor `name`, which must have `shape`; CheckpointError when it is missing or differs."""
        return tensors.require(self.tensors, name, shape)


def open_checkpoint(model_id: str | Path) -> Checkpoint:
    """Open a model without reading its weights.

    Args:
        model_id: a folder in Hugging Face's layout, a `.gguf` file, or an id on the Hugging Face hub
            (`HuggingFaceTB/SmolLM2-135M-Instruct`), which is downloaded into the hub's cache unless it is there.

    Raises:
        ModelNotFoundError: no such folder, file or id, or the hub cannot be reached or refuses.
        CheckpointError: a file is missing, truncated or corrupt.
        UnsupportedModelError: the format is one that we do not read.
    """
    path = Path(model_id).expanduser()
    if path.is_dir():
        return _open_folder(path, str(model_id))
    if path.is_file():
        return _open_gguf(path, str(model_id))
    if not is_hub_id(str(model_id)) or isinstance(model_id, Path):
        raise ModelNotFoundError(
            f"there is no model at {path}",
            expected="a folder with config.json, a .gguf file, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct",
            found="nothing at that path",
            fix="check the path",
        )
    return _open_folder(fetch_model(str(model_id)), str(model_id))


def _open_folder(folder: Path, model_id: str) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder} is not a model folder",
            expected="config.json beside the weights",
            found=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
            fix="give the folder that holds config.json, or a .gguf file itself",
        )
    config = read_json(folder / "config.json")
    quantization = config.get("quantization_config")
    if quantization:
        format_of(quantization, model_id)  # refuses before weights are looked for
    weights = _read_weights(folder)
    if quantization:
        weights = read_quantized(quantization, weights, model_id)
    generation = read_json_if_present(folder / "generation_config.json")
    return Checkpoint(
        model_id=model_id,
        config=config,
        tensors=weights,
        tokenizer=tokenizer_from_folder(folder, config, generation),
        generation=generation,
    )


def _read_weights(folder: Path) -> dict[str, LazyTensor]:
    """The weights of a folder: safetensors when there are any, else pickles; an index when there is one."""
    for stem, read_file in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        if (index := folder / f"{stem}.index.json").is_file():
            return read_shards(index, read_file)
        if (folder / stem).is_file():
            return read_file(folder / stem)
    raise CheckpointError(
        f"{folder} holds no weights",
        expected="model.safetensors or pytorch_model.bin, or the .index.json of either",
        found=", ".join(sorted(path.name for path in folder.iterdir())),
        fix="complete the folder, or give a .gguf file itself",
    )


def _open_gguf(path: Path, model_id: str) -> Checkpoint:
    file = read_gguf_file(path)
    config = config_from_gguf(file)
    tokenizer = tokenizer_from_gguf(file)
    return Checkpoint(
        model_id=model_id,
        config=config,
        tensors=read_gguf_tensors(file),
        tokenizer=tokenizer,
        generation={},
        notes=tuple(expanded_kinds(file)),
    )
