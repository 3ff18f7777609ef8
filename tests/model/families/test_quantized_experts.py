"""Checkpoints whose experts are quantized: kept in their own numbers, they are the model of what those stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import SIZES, case
from tests.model.families.expert_cases import FIVE
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from warploom.compiler import KV_CACHES, compile
from warploom.ir.types import DType
from warploom.runtime.artifact import load

CASE = case("mixtral_fp8", "Mixtral", SIZES | FIVE)
F8, LARGEST = torch.float8_e4m3fn, 448.0


def test_experts_stay_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    make_checkpoint(CASE, tmp_path / "floats")
    make_checkpoint(CASE, tmp_path / "fp8")
    floats = load_file(tmp_path / "floats" / "model.safetensors")
    numbers = dict(floats)
    for name in [name for name in floats if ".experts." in name]:
        scale = floats[name].abs().amax(1, keepdim=True) / LARGEST
        numbers[name] = (floats[name] / scale).to(F8)
        numbers[f"{name}_scale"] = scale
        floats[name] = numbers[name].float() * scale
    assert len(numbers) > len(floats)
    save_file(floats, tmp_path / "floats" / "model.safetensors")
    save_file(numbers, tmp_path / "fp8" / "model.safetensors")
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    described = config | {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(described))
    schemes: dict[str, Any] = {"floats": "f32", "fp8": {"*.experts.*": "checkpoint", "*": "f32"}}
    for name, scheme in schemes.items():
        compile(tmp_path / name, quantization=scheme, out=tmp_path / f"{name}.warploom")
    kept = {name: array for name, array in load(tmp_path / "fp8.warploom").params.items() if ".experts." in name}
    assert {name.rpartition(".")[2] for name in kept} == {"q", "scale"}
    ids = np.random.default_rng(0).integers(3, VOCAB, 40).tolist()
    logits = []
    for name in schemes:
        with Teacher(load(tmp_path / f"{name}.warploom")) as teacher:
            logits.append(teacher.logits(ids, [len(ids)]))
    wanted, found = logits
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)
