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
from warploom.frontend.checkpoint import open_checkpoint
from warploom.generation_defaults import generation_defaults
from warploom.runtime.manifest import GenerationInfo
from warploom.runtime.sampling_params import SamplingParams

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


def edit_generation(**fields: Any) -> Change:
    """Say how to sample."""

    def change(folder: Path) -> None:
        (folder / "generation_config.json").write_text(json.dumps(fields))

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


def endless_json(folder: Path) -> None:
    """More levels of nesting than Python's stack has."""
    (folder / "generation_config.json").write_text('{"a":' * 10**5)


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
    "architectures that are none": (edit_config(architectures=7), errors.UnsupportedModelError, ["architecture 7"]),
    "rope that is no object": (
        edit_config(rope_parameters="llama3"),
        errors.UnsupportedModelError,
        ["rope_parameters"],
    ),
    "a number that is none": (edit_config(rms_norm_eps=float("nan")), errors.UnsupportedModelError, ["rms_norm_eps"]),
    "sampling in words": (
        edit_generation(temperature="hot"),
        errors.CheckpointError,
        ["temperature", "remove the file"],
    ),
    "sampling out of range": (edit_generation(top_k=-3), errors.CheckpointError, ["top_k", "-3", "remove the file"]),
    "end token beyond the vocabulary": (
        edit_generation(eos_token_id=[2, 10**6]),
        errors.CheckpointError,
        ["end token", str(10**6), "eos_token_id"],
    ),
    "JSON without end": (endless_json, errors.CheckpointError, ["generation_config.json"]),
    "missing tensor": (edit_weights(lambda t: t.pop(DOWN)), errors.CheckpointError, [DOWN]),
    "wrong shape": (
        edit_weights(lambda t: t.update({DOWN: np.zeros((64, 95), np.float32)})),
        errors.CheckpointError,
        [DOWN, "[64, 96]", "[64, 95]"],
    ),
    "integers": (
        edit_weights(lambda t: t.update({DOWN: np.zeros((64, 96), np.int32)})),
        errors.CheckpointError,
        [DOWN, "model.safetensors", "i32", "bf16", "quantization_config"],
    ),
    "wide floats": (
        edit_weights(lambda t: t.update({DOWN: t[DOWN].astype(float)})),
        errors.CheckpointError,
        [DOWN, "f64"],
    ),
    "not a number": (
        edit_weights(lambda t: t[DOWN].put(3 * 96 + 5, np.nan)),
        errors.CheckpointError,
        [DOWN, "model.safetensors", "1 of 6144", "[3, 5]: nan"],
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


def test_a_weight_that_a_scheme_cannot_hold_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    edit_weights(lambda t: t[DOWN].put(5, 1e6))(model)  # its scale, 1e6 / 8, is no f16
    with pytest.raises(errors.CheckpointError, match=rf"{DOWN} holds numbers(.|\n)*1 of 192(.|\n)*=bf16,\*=int4"):
        compile(model, quantization="int4", out=tmp_path / "artifact")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_dummy_weights_of_no_spread_are_refused(model: Path, tmp_path: Path) -> None:
    for spread in (-1, "x", float("nan")):
        edit_config(initializer_range=spread)(model)
        with pytest.raises(errors.UnsupportedModelError, match="initializer_range"):
            compile(model, dummy_weights=True, out=tmp_path / "artifact")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, (0.7, 0.9, 0)),
        ({"do_sample": True, "top_k": 20, "top_p": None, "num_beams": 4}, (1.0, 1.0, 20)),
        ({"temperature": 0.7, "transformers_version": "5.0"}, (0.0, 1.0, 0)),
        ({}, (0.0, 1.0, 0)),
    ],
)
def test_models_sample_as_their_authors_do(
    stated: dict[str, Any], expected: tuple[float, float, int], model: Path
) -> None:
    edit_generation(**stated)(model)
    params = SamplingParams.from_generation(generation_defaults(open_checkpoint(model)))
    assert (params.temperature, params.top_p, params.top_k) == expected


def test_artifacts_say_how_the_authors_sample(model: Path, tmp_path: Path) -> None:
    edit_generation(do_sample=True, min_p=0.25)(model)
    assert compile(model, out=tmp_path / "artifact").manifest.generation == GenerationInfo(do_sample=True, min_p=0.25)


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
