"""Caches of eight bits: near to transformers, and the same whatever the steps are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.deepseek_cases import DENSE_ONLY, LATENT
from tests.model.families.dense_cases import WIDE, case
from tests.model.families.test_families import LENGTH, logits_of
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from warploom.compiler import compile
from warploom.runtime.artifact import load

LATENTS = LATENT | DENSE_ONLY | {"kv_lora_rank": 256, "q_lora_rank": None}  # two runs of a row
LLAMA, DEEPSEEK = case("llama_kv", "Llama", WIDE), case("deepseek_kv", "DeepseekV2", LATENTS)
# Root mean square error over the spread of logits; three bits of mantissa, and numbers up to 64 or 127. Roundings of
# 256 numbers of a latent are in each of its keys and values.
LIMITS = [(LLAMA, "fp8", 0.15), (LLAMA, "int8", 0.04), (DEEPSEEK, "fp8", 0.2), (DEEPSEEK, "int8", 0.07)]


@pytest.mark.parametrize(("of", "kind", "limit"), LIMITS, ids=lambda x: x.id if isinstance(x, Case) else str(x))
def test_caches_of_eight_bits(
    of: Case, kind: str, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_checkpoint(of, tmp_path / "checkpoint")
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    compile(tmp_path / "checkpoint", quantization="f32", kv_cache=kind, out=tmp_path / "artifact")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    expected = logits_of(model, ids)
    with Teacher(load(tmp_path / "artifact"), threads=1) as teacher:
        found = teacher.logits(ids, [LENGTH])
        np.testing.assert_array_equal(teacher.logits(ids, [1, 70, 49, *[1] * 8]), found)
    apart = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    print(f"{kind}: {apart:.4f}")
    assert 1e-5 < apart <= limit
