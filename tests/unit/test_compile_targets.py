"""One artifact for several targets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.unit.frontend.tiny_checkpoints import tiny_tokenizer
from tests.unit.passes.tiny_llama import CONFIG, random_tensors
from warploom.compiler import compile
from warploom.errors import CompileError
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

ARCHS = ["cuda:sm_90", "cuda:sm_80"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {**CONFIG, "num_hidden_layers": 1, "vocab_size": 264}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.load() for name, tensor in random_tensors(config).items()}, folder / "model.safetensors")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_a_cpu_and_gpus_in_one_artifact(model: Path, tmp_path: Path) -> None:
    """Every target finds its parameters, once each, and the CPU answers as it does alone."""
    alone = compile(model, out=tmp_path / "cpu")
    artifact = compile(model, target=["cpu", *ARCHS], deterministic=True, out=tmp_path / "all")
    assert list(artifact.manifest.targets) == ["cpu", *ARCHS]
    used: set[str] = set()
    for target in artifact.manifest.targets:
        for entry in artifact.plan(target).entries.values():
            for buffer in entry.buffers:
                if buffer.kind == "param":
                    used.add(buffer.name)
                    assert list(artifact.params[buffer.name].shape) == buffer.shape
    assert artifact.params.keys() == used
    plans = [artifact.plan(arch) for arch in ARCHS]
    params = [{b.name for e in plan.entries.values() for b in e.buffers if b.kind == "param"} for plan in plans]
    assert params[0] == params[1]
    assert {t.kv.page_size for t in artifact.manifest.targets.values()} == {16, 64}
    gpus = [artifact.manifest.targets[arch].cuda for arch in ARCHS]
    assert [gpu.deterministic for gpu in gpus if gpu is not None] == [True, True]
    for target in artifact.manifest.targets:
        assert f"ir/{target.replace(':', '.')}/00-trace.mlir" in artifact.manifest.files
    tokens = []
    for each in (alone, artifact):
        with LLM(each, device="cpu") as llm:
            (answer,) = llm.generate(["hello"], SamplingParams(temperature=0.0, max_tokens=8))
            tokens.append(answer.token_ids)
    assert tokens[0] == tokens[1]
    for name, array in alone.params.items():
        np.testing.assert_array_equal(array, artifact.params[name])


@pytest.mark.parametrize("targets", [[], ["cpu", "cpu"]])
def test_a_target_is_named_once(model: Path, tmp_path: Path, targets: list[str]) -> None:
    with pytest.raises(CompileError, match="each target once"):
        compile(model, target=targets, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
