"""Fixtures that write tiny Llama checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from tests.unit.frontend.tiny_checkpoints import (
    CHAT_TEMPLATE,
    GGUFContents,
    put,
    tiny_config,
    tiny_tensors,
    tiny_tokenizer,
)


@pytest.fixture
def tensors() -> dict[str, NDArray[np.float32]]:
    return tiny_tensors()


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A folder with all that belongs to a model except its weights."""
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9, "top_k": None})
    )
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": CHAT_TEMPLATE}
        )
    )
    return folder


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[[GGUFContents], Path]:
    """Writes a GGUF file with gguf's own writer; matrices get the quantization `kind`."""

    def write(contents: GGUFContents) -> Path:
        path = tmp_path / f"tiny-{len(list(tmp_path.iterdir()))}.gguf"
        writer = gguf.GGUFWriter(path, contents.architecture)
        for key, value in contents.metadata.items():
            put(writer, key, value)
        for name, values in contents.tensors.items():
            kind = contents.kind if values.ndim >= 2 else GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def gguf_contents() -> GGUFContents:
    return GGUFContents()
