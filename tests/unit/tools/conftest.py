"""One tiny Llama, compiled once for all tests of the command line, and a way to run that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import warploom
from tests.unit.frontend.tiny_checkpoints import tiny_config, tiny_tensors, tiny_tokenizer

# With the role, unlike that of the frontend's tests, and ending where the answer begins.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
RunCLI = Callable[..., "subprocess.CompletedProcess[str]"]


def write_tiny_model(folder: Path) -> Path:
    """A Llama of two layers in Hugging Face's layout; small weights keep its logits apart but finite."""
    folder.mkdir(parents=True)
    tensors = {name: (0.05 * values).astype(np.float32) for name, values in tiny_tensors().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of the tiny Llama, f32."""
    folder = tmp_path_factory.mktemp("tools")
    model = write_tiny_model(folder / "tiny-llama")
    return warploom.compile(model, quantization="f32", out=folder / "tiny").path


@pytest.fixture(scope="session")
def wide_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a Llama with gigabytes of dummy weights."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"vocab_size": 40000, "hidden_size": 4096, "intermediate_size": 1 << 16}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    (folder / "config.json").write_text(json.dumps({**tiny_config(), **sizes, **heads}))
    return warploom.compile(folder, dummy_weights=True, out=folder / "artifact").path


@pytest.fixture
def run_cli() -> RunCLI:
    """Runs `warploom` as a process of its own, with standard input."""

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "warploom.tools.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "120"}
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, env=environment, check=False
        )

    return run
