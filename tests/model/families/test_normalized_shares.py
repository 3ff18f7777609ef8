"""DeepSeek-V2 with `norm_topk_prob`, which DeepSeek's own code honours and transformers does not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.deepseek_cases import LATENT
from tests.model.families.dense_cases import case
from tests.model.families.test_families import LENGTH, check_logits
from tests.unit.codegen.cpu_harness import RUNNABLE
from tests.unit.frontend.published_configs import PUBLISHED
from warploom.compiler import compile
from warploom.errors import UnsupportedModelError
from warploom.frontend.models.registry import family_of
from warploom.runtime.artifact import load

GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.0}


@pytest.mark.parametrize("groups", [{}, GROUPS], ids=["all", "groups"])
def test_shares_of_the_chosen_sum_to_one(
    groups: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"norm_topk_prob": True, "q_lora_rank": None, "n_shared_experts": 2}
    model = make_checkpoint(case("normalized", "DeepseekV2", LATENT | fields | groups), tmp_path / "checkpoint")
    model.model.layers[1].mlp.gate.register_forward_hook(
        lambda module, inputs, output: (output[0], output[1] / output[1].sum(-1, keepdim=True), output[2])
    )
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    compile(tmp_path / "checkpoint", quantization="f32", out=tmp_path / "artifact")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    check_logits(load(tmp_path / "artifact"), model, ids)


def test_a_scale_beside_it_is_refused() -> None:
    config = PUBLISHED["DeepSeek-V2-Lite"] | {"norm_topk_prob": True, "routed_scaling_factor": 16.0}
    with pytest.raises(UnsupportedModelError, match="DeepSeek-V2: config field routed_scaling_factor"):
        family_of(config).parse(config)
