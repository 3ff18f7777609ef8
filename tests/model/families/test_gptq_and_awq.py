"""GPTQ and AWQ checkpoints kept in their own numbers: transformers with these numbers as floats is the oracle.

transformers itself runs both on GPUs only. Its linears get the values that the formats' definitions give (those are
held to GPTQModel and AutoAWQ in `tests/golden`), and read what our integer kernels read: rows rounded to eight bits in
groups of 32 columns, which with `desc_act` are columns in the order of the weight's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import case
from tests.model.families.test_families import LENGTH, TOLERANCE, logits_of
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from tests.unit.frontend.test_quantized_formats import words
from warploom.compiler import KV_CACHES, compile
from warploom.ir.types import DType
from warploom.runtime.artifact import load

ROUNDED = 32  # columns that share a scale of activations
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 160}
CASE = case("llama_gptq", "Llama", SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2})
INPUTS = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 0, "up_proj": 0, "o_proj": 1, "down_proj": 2}
NATURAL = tuple(range(8))


@dataclass(frozen=True)
class Variant:
    """How a checkpoint is quantized; `shuffled` is `desc_act`."""

    method: str
    bits: int = 4
    group: int = 32
    shuffled: bool = False
    sym: bool = False

    @property
    def config(self) -> dict[str, Any]:
        common = {"quant_method": self.method, "bits": self.bits, "group_size": self.group}
        return common | ({"version": "gemm"} if self.method == "awq" else {"desc_act": self.shuffled, "sym": self.sym})


def numbers(variant: Variant, weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q [n, k], zeros and scales [n, groups] near a weight; which of them share a scale does not matter here."""
    n, k = weight.shape
    rng, top = np.random.default_rng(n + k), 1 << variant.bits
    zeros = rng.integers(top // 2 - 2, top // 2 + 2, (n, k // variant.group))
    zeros = np.full_like(zeros, top // 2) if variant.sym else zeros
    scales = (float(weight.abs().max()) * 2 / top * rng.uniform(0.8, 1.2, zeros.shape)).astype(np.float16)
    return rng.integers(0, top, (n, k)), zeros, scales


def stored(variant: Variant, name: str, module: torch.nn.Linear) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The tensors of a linear, which from now on has their values, and the order of its columns."""
    k = module.in_features
    q, zeros, scales = numbers(variant, module.weight.data)
    group = np.arange(k) // variant.group
    if variant.shuffled:
        seed = INPUTS[name.rpartition(".")[2]]  # linears that read one value have one order
        group = np.random.default_rng(seed).permutation(group)
    values = (q - zeros[:, group]) * scales.astype(np.float32)[:, group]
    module.weight.data = torch.from_numpy(values.astype(np.float32))
    if variant.method == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        made = {"qweight": words(q.T, 4, order), "qzeros": words(zeros.T, 4, order), "scales": scales.T}
    else:
        places = NATURAL[: 32 // variant.bits]
        made = {"qweight": words(q, variant.bits, places).T, "qzeros": words(zeros.T - 1, variant.bits, places)}
        made |= {"scales": scales.T, "g_idx": group.astype(np.int32)}
    tensors = {f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(array)) for part, array in made.items()}
    return tensors, np.argsort(group, kind="stable")


def reads_rounded(order: np.ndarray) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], tuple[torch.Tensor]]:
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = inputs[0][..., order]
        grouped = x.reshape(*x.shape[:-1], -1, ROUNDED)
        scale = grouped.abs().amax(-1, keepdim=True) / 127
        rounded = ((grouped / scale).round() * scale).reshape(x.shape)
        return (rounded[..., np.argsort(order)],)

    return hook


def quantize(folder: Path, model: PreTrainedModel, variant: Variant) -> None:
    """The linears of the layers, in the folder and in memory."""
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            del tensors[f"{name}.weight"]
            made, order = stored(variant, name, module)
            tensors |= made
            module.register_forward_pre_hook(reads_rounded(order))
    save_file(tensors, folder / "model.safetensors")
    described = json.loads((folder / "config.json").read_text()) | {"quantization_config": variant.config}
    (folder / "config.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    "variant",
    [
        Variant("gptq", shuffled=True, sym=True),
        Variant("gptq", group=64, shuffled=True),
        Variant("gptq", bits=8, shuffled=True, sym=True),
        Variant("awq", group=64),
    ],
    ids=str,
)
def test_logits_are_those_of_the_values(variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_checkpoint(CASE, tmp_path / "checkpoint")
    quantize(tmp_path / "checkpoint", model, variant)
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    monkeypatch.setitem(KV_CACHES, "auto", DType.F32)
    rules = {"lm_head": "f32", "model.embed_tokens": "f32", "*": "checkpoint"}
    compile(tmp_path / "checkpoint", quantization=rules, out=tmp_path / "artifact")
    artifact = load(tmp_path / "artifact")
    kept = [name for name in artifact.params if ".weight.q" in name]
    assert len(kept) == 4 * SIZES["num_hidden_layers"]  # q k v; o; gate up; down
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    expected = logits_of(model, ids)
    with Teacher(artifact, threads=1) as teacher:
        apart = np.abs(teacher.logits(ids, [LENGTH]) - expected).max(-1)
    assert np.median(apart) <= TOLERANCE
    assert apart.max() <= 0.1 * np.abs(expected).max()
