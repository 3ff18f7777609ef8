"""Every family, on tiny random checkpoints: transformers in fp32 is the oracle.

A checkpoint is compiled once, for the best ISA level of this machine (the others are compared kernel by kernel in
tests/unit/codegen), moved, and loaded; then all that follows is asked of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.deepseek_cases import DEEPSEEK
from tests.model.families.dense_cases import DENSE
from tests.model.families.expert_cases import EXPERTS
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from warploom.compiler import compile
from warploom.frontend.models.registry import families
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

CASES = DENSE + EXPERTS + DEEPSEEK
TOLERANCE = 2e-4
LENGTH, NEW_TOKENS = 128, 64


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_family(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_checkpoint(case, tmp_path / "checkpoint")
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    compile(tmp_path / "checkpoint", quantization="f32", out=tmp_path / "artifact")
    shutil.rmtree(tmp_path / "checkpoint")
    artifact = load(shutil.move(tmp_path / "artifact", tmp_path / "moved"))
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    check_logits(artifact, model, ids)
    check_generation(artifact, model, ids)


def check_logits(artifact: Artifact, model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Prompts at once, in chunks and token by token equal transformers at every position."""
    expected = logits_of(model, ids)
    assert np.abs(expected).max() > 100 * TOLERANCE
    with Teacher(artifact, threads=1) as teacher:
        for chunks in ([LENGTH], [1, 70, 49, *[1] * 8]):
            found = teacher.logits(ids, chunks)
            worst = np.abs(found - expected).max()
            exact = logits_of(model.double(), ids) if worst > TOLERANCE else expected
            model.float()
            assert worst <= TOLERANCE, (
                f"{worst} in chunks {chunks}; from double precision: {np.abs(found - exact).max()}"
            )


def check_generation(artifact: Artifact, model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Greedy continuations are transformers', and the same for a prompt alone and among others."""
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    drawn = SamplingParams(temperature=0.9, top_p=0.9, seed=3, max_tokens=24, ignore_eos=True)
    prompts, params = [ids[:80], ids[5:9], ids[20:77]], [greedy, drawn, greedy]
    with LLM(artifact, threads=1, max_num_batched_tokens=50) as llm:
        together = [answer.token_ids for answer in llm.generate(prompts, params)]
        alone = [llm.generate([p], s)[0].token_ids for p, s in zip(prompts[:2], params, strict=False)]
    assert together[:2] == alone
    assert len(together[0]) == NEW_TOKENS
    rows = logits_of(model, [*prompts[0], *together[0]])[len(prompts[0]) - 1 : -1]
    gaps = rows.max(-1) - rows[np.arange(NEW_TOKENS), together[0]]
    assert gaps.max() <= TOLERANCE  # 0, but for a tie


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: Sequence[int]) -> np.ndarray:
    """[len(ids), vocab] by transformers."""
    output: np.ndarray = model(torch.tensor([list(ids)])).logits[0].numpy()
    return output


def test_every_architecture_has_a_case() -> None:
    assert {case.model for case in CASES} == families().keys() - {"MPTForCausalLM"}  # MosaicML's spelling
