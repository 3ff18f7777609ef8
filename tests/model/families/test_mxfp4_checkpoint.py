"""gpt-oss as it is published, its experts in MXFP4: transformers' model with what they stand for is the oracle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import case
from tests.model.families.expert_cases import GPT_OSS, GPT_OSS_YARN
from tests.model.families.test_families import LENGTH, check_generation, check_logits
from tests.unit.codegen.cpu_harness import RUNNABLE
from tests.unit.frontend.gguf_converter import converted, metadata
from tests.unit.frontend.tiny_checkpoints import put
from warploom.compiler import KV_CACHES, compile
from warploom.errors import CheckpointError
from warploom.frontend.checkpoint import open_checkpoint
from warploom.ir.types import DType
from warploom.runtime.artifact import load

SIZES = {"hidden_size": 96, "intermediate_size": 64, "swiglu_limit": 7.0}  # a limit that GGUF files do not state
CASE = case("gpt_oss_mxfp4", "GptOss", GPT_OSS | GPT_OSS_YARN | SIZES)
PACKED = ("gate_up_proj", "down_proj")


def store_as_mxfp4(folder: Path, model: PreTrainedModel) -> None:
    """Give all experts of a model, in the folder and in memory, random numbers of four bits."""
    rng = np.random.default_rng(0)
    tensors = load_file(folder / "model.safetensors")
    parameters = dict(model.named_parameters())
    for name in [n for n in tensors if n.endswith(PACKED)]:
        count, k, n = tensors.pop(name).shape
        blocks = rng.integers(0, 256, (count, n, k // 32, 16), np.uint8)
        scales = rng.integers(122, 126, (count, n, k // 32), np.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        values = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
        parameters[name].data.copy_(values)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("mxfp4")
    model = make_checkpoint(CASE, folder)
    store_as_mxfp4(folder, model)
    return folder, model


@pytest.mark.parametrize("experts", ["checkpoint", "f32"])
def test_mxfp4_experts(
    experts: str, published: tuple[Path, PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept as they are, and expanded; all else in f32, so that nothing but the order of sums differs."""
    folder, model = published
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    compile(folder, quantization={"*.experts*": experts, "*": "f32"}, out=tmp_path / "artifact")
    artifact = load(tmp_path / "artifact")
    kept = [name for name, array in artifact.params.items() if "experts" in name and array.dtype == np.int8]
    assert len(kept) == (8 if experts == "checkpoint" else 0)
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    check_logits(artifact, model, ids)
    if experts == "checkpoint":
        check_generation(artifact, model, ids)


def write_gguf(folder: Path, model: PreTrainedModel, path: Path) -> None:
    """The published checkpoint as llama.cpp's converter writes it: its numbers, with halves of 32 in a byte."""
    config = model.config.to_dict()
    window = {"attention.sliding_window": config["sliding_window"]}
    experts = {"expert_count": config["num_local_experts"], "expert_used_count": config["num_experts_per_tok"]}
    sizes = {"expert_feed_forward_length": config["intermediate_size"]}
    writer = gguf.GGUFWriter(path, "gpt-oss")
    for key, value in metadata("gpt-oss", config, window | experts | sizes).items():
        put(writer, key, value)
    tensors = load_file(folder / "model.safetensors")
    packed = {name: values for name, values in tensors.items() if name.endswith(("_blocks", "_scales"))}
    rest = {name: values for name, values in tensors.items() if name not in packed}
    for name, values in converted("gpt-oss", config, rest).items():
        writer.add_tensor(name, values)
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}.mlp.experts."
        both, down = (as_ggml(packed[f"{stem}{n}_blocks"], packed[f"{stem}{n}_scales"]) for n in PACKED)
        for name, blocks in (("gate", both[:, 0::2]), ("up", both[:, 1::2]), ("down", down)):
            kind = gguf.GGMLQuantizationType.MXFP4
            writer.add_tensor(f"blk.{layer}.ffn_{name}_exps.weight", np.ascontiguousarray(blocks), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_ggml(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[E, n, k / 32, 16] and [E, n, k / 32] as rows of ggml's blocks, u8 [E, n, k / 32 * 17]."""
    codes = np.stack((blocks & 15, blocks >> 4), -1).reshape(*blocks.shape[:-1], 32)
    whole = np.concatenate((scales[..., None], codes[..., :16] | codes[..., 16:] << 4), -1)
    return whole.reshape(*whole.shape[:2], -1)


def test_a_gguf_file_keeps_the_same_numbers(
    published: tuple[Path, PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = published
    write_gguf(folder, model, tmp_path / "model.gguf")
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    compile(tmp_path / "model.gguf", quantization={"*.experts*": "checkpoint", "*": "f32"}, out=tmp_path / "artifact")
    artifact = load(tmp_path / "artifact")
    assert len([name for name, array in artifact.params.items() if "experts" in name and array.dtype == np.int8]) == 8
    check_logits(artifact, model, np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist())


def test_scales_that_are_missing_are_named(published: tuple[Path, PreTrainedModel], tmp_path: Path) -> None:
    folder = shutil.copytree(published[0], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.down_proj_blocks has no scales"):
        open_checkpoint(folder)
