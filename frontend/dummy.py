"""A model from its config alone: weights of the right shapes without data, so that speed can be measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from warploom.errors import CheckpointError, ModelNotFoundError
from warploom.frontend.checkpoint import Checkpoint
from warploom.frontend.json_file import read_json
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.tensors import Array, LazyTensor
from warploom.frontend.tokenizer import TokenizerFiles


def dummy_checkpoint(model_id: str | Path) -> Checkpoint:
    """A checkpoint of the `config.json` in a folder, with a tokenizer of bytes and no tensors.

    Raises:
        ModelNotFoundError: there is no such file.
        CheckpointError: it is not JSON.
    """
    folder = Path(model_id)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"there is no config.json in {folder}",
            expected="a folder with the config.json of the model",
            fix="give the folder; dummy weights need nothing else",
        )
    return Checkpoint(str(model_id), read_json(folder / "config.json"), {}, _byte_tokenizer(), {})


def dummy_tensor(name: str, shape: tuple[int, ...]) -> LazyTensor:
    """A bf16 tensor that exists in name and shape only."""

    def read() -> Array:
        raise CheckpointError(f"the dummy tensor {name} has no data", fix="compile without dummy weights")

    return LazyTensor(name, shape, "bf16", "dummy weights", read)


def dummy_spread(config: Mapping[str, Any]) -> float:
    """The standard deviation of random weights, as the config has it; UnsupportedModelError if it has nonsense."""
    return ConfigReader(config, "Dummy weights").positive("initializer_range", 0.02)


def _byte_tokenizer() -> TokenizerFiles:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenizerFiles(tokenizer.to_str(), None, None, None, (), add_bos=False)
