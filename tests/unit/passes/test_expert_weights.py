"""Weights of experts: stored in floats, refused in formats and on targets that have no kernel for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import warploom
from warploom.codegen.cuda.kernels import expert_group
from warploom.errors import CompileError, IRError
from warploom.ir.ops.experts import expert_linear
from warploom.ir.types import DType, tensor

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def compiled(folder: Path, target: str, quantization: Any) -> warploom.Artifact:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return warploom.compile(
        folder, target=target, quantization=quantization, dummy_weights=True, out=folder / "artifact"
    )


def test_a_target_without_the_kernel_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_group, "read_weight", lambda product: "no such weight")
    with pytest.raises(CompileError, match=r"cuda:sm_90 has no kernel for the experts of model\.layers\.0") as caught:
        compiled(tmp_path, "cuda:sm_90", "bf16")
    assert "no such weight" in str(caught.value.found)


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_experts_are_quantized_as_all_others(tmp_path: Path, scheme: str) -> None:
    stored = compiled(tmp_path, "cpu", scheme).manifest.random_params
    experts = {name: param.dtype for name, param in stored.items() if ".experts." in name}
    assert sorted(experts.values()) == sorted([{"int8": "i8", "fp8": "f8e4m3"}[scheme]] * 2 + ["f32"] * 2)
    floats = compiled(tmp_path, "cpu", {"*.experts.*": "bf16", "*": scheme}).manifest.random_params
    assert {param.dtype for name, param in floats.items() if ".experts." in name} == {"bf16"}


def test_experts_that_a_scheme_cannot_hold_are_refused_and_the_fix_works(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"the experts of model\.layers\.0.* cannot be stored as int4") as caught:
        compiled(tmp_path, "cpu", {"*.experts.*": "int4", "*": "int8"})
    assert '"*.experts.*": "int8"' in str(caught.value)


def test_experts_in_mxfp4_need_whole_groups(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"cannot be stored as mxfp4") as caught:
        compiled(tmp_path, "cpu", "mxfp4")
    assert "groups of 32" in str(caught.value)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(
    ("x", "experts", "weight", "n"),
    [
        (("T", 3, 8), ("T", 2), (20, 8), 5),  # neither one row nor one per choice
        (("T", 2, 8), ("T", 2), (21, 8), 5),  # no whole experts
        (("T", 2, 8), ("T", 2), (20, 9), 5),
        (("T", 8), ("T", 2), (20, 8), 5),
        (("T", 2, 8), ("T", 2), (20, 8), 0),
    ],
)
def test_what_does_not_fit_is_refused(x: tuple[Any, ...], experts: tuple[Any, ...], weight: Any, n: int) -> None:
    with pytest.raises(IRError, match="expert_linear"):
        expert_linear.result_types([tensor(x), tensor(experts, DType.I32), tensor(weight)], {"n": n})
