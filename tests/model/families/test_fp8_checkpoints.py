"""FP8 checkpoints as others write them, kept in their own numbers: transformers with the same roundings is the oracle.

A product of rounded numbers turns where a rounding turns, and sums in another order turn a few roundings: so most
positions must agree as f32 does, and all of them about as well as roundings allow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import WIDE, case
from tests.model.families.test_families import LENGTH, TOLERANCE, logits_of
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from warploom.compiler import KV_CACHES, compile
from warploom.ir.types import DType
from warploom.runtime.artifact import Artifact, load

F8, LARGEST = torch.float8_e4m3fn, 448.0
CASE = case("llama_fp8", "Llama", WIDE)
STATIC = {"quant_method": "fp8", "activation_scheme": "static"}  # one scale of a weight, one of what it reads
DYNAMIC = {"quant_method": "compressed-tensors", "format": "float-quantized"}  # per row and per token
ROWS, COLUMNS = 8, 24
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [ROWS, COLUMNS]}
TOGETHER = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})  # what is one product shares a scale


def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x / scale).clamp(-LARGEST, LARGEST).to(F8).float() * scale


def store_as_fp8(folder: Path, model: PreTrainedModel, config: dict[str, Any]) -> None:
    """Round the linears of the layers, in the folder and in memory, where they round what they read too."""
    tensors = load_file(folder / "model.safetensors")
    static = config is STATIC
    scales = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.005
    linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    read_on = dict(zip(linears, scales, strict=False))
    for name, module in linears.items():
        weight = module.weight.data
        scale = (weight.abs().max().reshape(1) if static else weight.abs().amax(1, keepdim=True)) / LARGEST
        tensors[f"{name}.weight"] = (weight / scale).clamp(-LARGEST, LARGEST).to(F8)
        tensors[f"{name}.weight_scale"] = scale
        module.weight.data = tensors[f"{name}.weight"].float() * scale
        if static:
            tensors[f"{name}.input_scale"] = read_on[name]
        module.register_forward_pre_hook(reads_rounded(shared(name, read_on) if static else None))
    save_file(tensors, folder / "model.safetensors")
    described = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(described))


def shared(name: str, read_on: dict[str, torch.Tensor]) -> torch.Tensor:
    """The largest scale of the linears that are one product."""
    module, _, last = name.rpartition(".")
    others = next((group for group in TOGETHER if last in group), {last})
    return torch.stack([read_on[f"{module}.{other}"] for other in others]).max()


def reads_rounded(scale: torch.Tensor | None):  # type: ignore[no-untyped-def]
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (x,) = inputs
        return (rounded(x, x.abs().amax(-1, keepdim=True) / LARGEST if scale is None else scale),)

    return hook


def compiled(folder: Path, out: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    compile(folder, quantization={"lm_head": "f32", "model.embed_tokens": "f32", "*": "checkpoint"}, out=out)
    return load(out)


@pytest.mark.parametrize("config", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_fp8_checkpoints(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_checkpoint(CASE, tmp_path / "checkpoint")
    store_as_fp8(tmp_path / "checkpoint", model, config)
    artifact = compiled(tmp_path / "checkpoint", tmp_path / "artifact", config, monkeypatch)
    kinds = {array.dtype for name, array in artifact.params.items() if "weight.q" in name}
    assert {str(kind) for kind in kinds} <= {"uint8", "int8", "float8_e4m3fn"}
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    expected = logits_of(model, ids)
    with Teacher(artifact, threads=1) as teacher:
        apart = np.abs(teacher.logits(ids, [LENGTH]) - expected).max(-1)
    assert np.median(apart) <= TOLERANCE
    assert apart.max() <= 0.1 * np.abs(expected).max()


def test_scales_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSeek-V3's and Qwen3's; what they are multiplied with is not rounded."""
    model = make_checkpoint(CASE, tmp_path / "checkpoint")
    tensors = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            n, k = module.weight.shape
            blocks = module.weight.data.reshape(n // ROWS, ROWS, k // COLUMNS, COLUMNS)
            scale = blocks.abs().amax((1, 3)) / LARGEST
            q = (blocks / scale[:, None, :, None]).to(F8)
            module.weight.data = (q.float() * scale[:, None, :, None]).reshape(n, k)
            tensors |= {f"{name}.weight": q.reshape(n, k), f"{name}.weight_scale_inv": scale}
    save_file(tensors, tmp_path / "checkpoint" / "model.safetensors")
    described = json.loads((tmp_path / "checkpoint" / "config.json").read_text()) | {"quantization_config": BLOCKS}
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(described))
    artifact = compiled(tmp_path / "checkpoint", tmp_path / "artifact", BLOCKS, monkeypatch)
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    with Teacher(artifact, threads=1) as teacher:
        assert np.abs(teacher.logits(ids, [1, LENGTH - 1]) - logits_of(model, ids)).max() <= TOLERANCE
