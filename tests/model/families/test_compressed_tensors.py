"""Checkpoints of compressed-tensors: transformers, which reads and runs them with that package, is the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import case
from tests.model.families.test_families import LENGTH, TOLERANCE, logits_of
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from tests.unit.frontend.test_quantized_formats import words
from warploom.compiler import KV_CACHES, compile
from warploom.ir.types import DType
from warploom.runtime.artifact import load

GROUP = 32
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
CASE = case(
    "llama_compressed",
    "Llama",
    SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 160},
)
Stored = dict[str, torch.Tensor]


def packed(weight: torch.Tensor) -> Stored:
    """Four bits in groups."""
    grouped = weight.reshape(len(weight), -1, GROUP)
    scale = grouped.abs().amax(-1) / 7
    q = (grouped / scale[..., None]).round().clamp(-8, 7).reshape(weight.shape) + 8
    numbers = torch.from_numpy(words(q.numpy().astype(np.int64), 4, tuple(range(8))).copy())
    return {"weight_packed": numbers, "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}


def rounded(weight: torch.Tensor) -> Stored:
    """E4M3, a scale for each row."""
    scale = weight.abs().amax(1, keepdim=True) / 448
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


COMMON = {"symmetric": True, "dynamic": False}
INT4 = COMMON | {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
FP8 = COMMON | {"num_bits": 8, "type": "float", "strategy": "channel"}
PER_TOKEN = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}


def described(kind: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "format": kind}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


@pytest.mark.parametrize(
    ("config", "store", "quantization"),
    [
        (described("pack-quantized", INT4, None), packed, "f32"),
        (described("float-quantized", FP8, PER_TOKEN), rounded, "checkpoint"),
    ],
    ids=["int4", "fp8"],
)
def test_logits_are_those_of_transformers(
    config: dict[str, Any],
    store: Callable[[torch.Tensor], Stored],
    quantization: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights of four bits as floats, FP8 with its roundings, of which sums in another order turn a few."""
    folder = tmp_path / "checkpoint"
    model = make_checkpoint(CASE, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = tensors.pop(f"{name}.weight")
            tensors |= {f"{name}.{part}": value.contiguous() for part, value in store(weight).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described_model = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(described_model))

    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    rules = {"lm_head": "f32", "model.embed_tokens": "f32", "*": quantization}
    compile(folder, quantization=rules, out=tmp_path / "artifact")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    expected = logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids)
    with Teacher(load(tmp_path / "artifact"), threads=1) as teacher:
        apart = np.abs(teacher.logits(ids, [LENGTH]) - expected).max(-1)
    assert np.median(apart) <= TOLERANCE
    assert apart.max() <= (0.1 * np.abs(expected).max() if quantization == "checkpoint" else TOLERANCE)
