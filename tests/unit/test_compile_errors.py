"""Compiling a bad model: a typed error that names what, expected, found and what to do, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.unit.frontend.tiny_checkpoints import tiny_tokenizer
from tests.unit.passes.tiny_llama import CONFIG, random_tensors
from warploom import errors
from warploom.compiler import compile

Change = Callable[[Path], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tiny Llama that compiles."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({n: t.load() for n, t in random_tensors(CONFIG).items()}, folder / "model.safetensors")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def edit_config(**changes: Any) -> Change:
    """Change fields of config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def edit_weights(edit: Callable[[dict[str, np.ndarray]], None]) -> Change:
    """Change the tensors."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def truncate(folder: Path) -> None:
    """Lose the end of the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DOWN = "model.layers.1.mlp.down_proj.weight"
CASES: dict[str, tuple[Change, type[errors.WarploomError], list[str]]] = {
    "unknown architecture": (
        edit_config(architectures=["NovelForCausalLM"]),
        errors.UnsupportedModelError,
        ["NovelForCausalLM", "LlamaForCausalLM, "],
    ),
    "unknown field": (edit_config(novel_gate=3), errors.UnsupportedModelError, ["novel_gate=3"]),
    "other activation": (edit_config(hidden_act="gelu"), errors.UnsupportedModelError, ["'silu'", "'gelu'"]),
    "unknown rope": (
        edit_config(rope_scaling={"rope_type": "novel"}),
        errors.UnsupportedModelError,
        ["novel", "llama3"],
    ),
    "heads do not divide": (
        edit_config(num_key_value_heads=3),
        errors.UnsupportedModelError,
        ["num_key_value_heads=3", "num_attention_heads=4"],
    ),
    "missing tensor": (edit_weights(lambda t: t.pop(DOWN)), errors.CheckpointError, [DOWN]),
    "wrong shape": (
        edit_weights(lambda t: t.update({DOWN: np.zeros((64, 95), np.float32)})),
        errors.CheckpointError,
        [DOWN, "[64, 96]", "[64, 95]"],
    ),
    "truncated weights": (truncate, errors.CheckpointError, ["model.safetensors", "bytes"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_model_is_refused_by_name(case: str, model: Path, tmp_path: Path) -> None:
    change, kind, words = CASES[case]
    change(model)
    with pytest.raises(kind) as caught:
        compile(model, out=tmp_path / "artifact")
    for word in words:
        assert word in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "tpu"}, ["tpu", "cuda:sm_90"]),
        ({"target": "cuda:sm_10"}, ["sm_10", "sm_90"]),
        ({"quantization": "int3"}, ["int3", "bf16"]),
        ({"quantization": "int4:g48"}, ["g48", "g64"]),
        (
            {"quantization": "int4:g128"},
            ["groups of 128", "model.layers.0", '{"model.layers.*.self_attn.q_proj": "int8"'],
        ),
        ({"quantization": "int4:awq"}, ["needs a calibration text", "--calibration"]),
        ({"quantization": "int4:awq", "calibration": "a word"}, ["too short", "256 tokens"]),
        ({"quantization": "int8", "calibration": "a word"}, ["int8 reads no calibration text", "int4:awq"]),
        ({"quantization": "lm_haed=bf16,*=int8"}, ["'lm_haed' fits no weight", "lm_head", "model.layers.*.mlp"]),
        ({"quantization": "fp8", "target": "cuda:sm_80"}, ["sm_89 is the first", "model.layers.*.self_attn"]),
        ({"quantization": "mxfp4"}, ["mxfp4 stores experts", "mixture", "int4"]),
        ({"quantization": "lm_head=int8,*=mxfp4"}, ["mxfp4 stores experts"]),
        ({"kv_cache": "fp4"}, ["fp4", "fp8"]),
        ({"kv_cache": "fp8", "target": "cuda:sm_80"}, ["fp8", "cuda:sm_80", "int8"]),
        ({"max_context": 1000}, ["1000", "128"]),
    ],
)
def test_a_bad_option_is_refused_by_name(
    options: dict[str, Any], words: list[str], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.CompileError) as caught:
        compile(model, out=tmp_path / "artifact", **options)
    for word in words:
        assert word in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_an_interrupted_compilation_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("warploom.compiler._prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        compile(model, out=tmp_path / "artifact")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
