"""Scales of FP8 caches: where checkpoints have them, what is refused, and what is measured otherwise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import mlir.ir as mlir
import numpy as np
import pytest

from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.dense_cases import WIDE, case
from tests.model.families.test_families import LENGTH, logits_of
from tests.model.teacher import Teacher
from tests.unit.codegen.cpu_harness import RUNNABLE
from warploom.cache_scales import _powers_of_two, cache_scales, own_scales
from warploom.compiler import compile
from warploom.errors import CheckpointError, CompileError
from warploom.frontend.checkpoint import Checkpoint, open_checkpoint
from warploom.frontend.models.registry import Geometry
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.tokenizer import TokenizerFiles
from warploom.frontend.trace import geometry_of
from warploom.ir.context import new_context
from warploom.ir.ops.scaled_cache import scales_name
from warploom.runtime.artifact import load

GEOMETRY = Geometry(num_layers=2, num_kv_heads=3, head_dim=16, vocab_size=100, max_context=128)


def checkpoint_of(scales: dict[str, object], scheme: dict[str, object] | None = None) -> Checkpoint:
    """One that holds only scales."""
    tensors = {}
    for name, value in scales.items():
        array = np.asarray(value, np.float32)
        tensors[name] = LazyTensor(name, array.shape, "f32", "model.safetensors", partial(np.asarray, array))
    config = {"quantization_config": {"kv_cache_scheme": scheme}} if scheme is not None else {}
    return Checkpoint("test", config, tensors, TokenizerFiles("", None, None, None, (), add_bos=False), {})


def of_layers(k: str, v: str) -> dict[str, object]:
    """Keys on 0.25 and 0.5, values on 2 and 3."""
    found: dict[str, object] = {}
    for layer in range(2):
        found |= {f"model.layers.{layer}.{k}": [0.25 + layer / 4], f"model.layers.{layer}.{v}": [2.0 + layer]}
    return found


@pytest.mark.parametrize(
    ("k", "v"),
    [
        ("self_attn.k_scale", "self_attn.v_scale"),
        ("self_attn.attn.k_scale", "self_attn.attn.v_scale"),
        ("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"),
        ("self_attn.k_proj.output_scale", "self_attn.v_proj.output_scale"),
    ],
)
def test_scales_of_checkpoints_are_found(k: str, v: str) -> None:
    found = own_scales(checkpoint_of(of_layers(k, v), {"type": "float", "num_bits": 8}), GEOMETRY)
    assert found is not None
    np.testing.assert_array_equal(found, np.array([[[0.25] * 3, [2] * 3], [[0.5] * 3, [3] * 3]], np.float32))


def test_scales_may_be_of_heads_or_of_keys_and_values_together() -> None:
    each = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    found = own_scales(checkpoint_of({f"model.layers.{i}.self_attn.kv_scale": each for i in range(2)}), GEOMETRY)
    assert found is not None
    np.testing.assert_array_equal(found, np.broadcast_to([1, 2, 3], (2, 2, 3)))


def test_scales_of_other_numbers_are_none() -> None:
    scales = of_layers("self_attn.k_scale", "self_attn.v_scale")
    assert own_scales(checkpoint_of(scales, {"type": "int", "num_bits": 8}), GEOMETRY) is None
    assert own_scales(checkpoint_of({"model.layers.0.mlp.up_proj.weight_scale": [1]}), GEOMETRY) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.layers.1.self_attn.v_scale": [0.0]}, ["v_scale", "positive"]),
        ({"model.layers.1.self_attn.v_scale": [np.nan]}, ["v_scale", "nan"]),
        ({"model.layers.0.self_attn.k_scale": [1.0, 2.0]}, ["k_scale", "3, one of each head"]),
        ({"model.layers.0.self_attn.k_scale": None}, ["missing", "k of layer 0", "measured"]),
    ],
)
def test_what_is_no_scale_is_refused(change: dict[str, object], words: list[str]) -> None:
    scales = of_layers("self_attn.k_scale", "self_attn.v_scale") | change
    with pytest.raises(CheckpointError) as caught:
        own_scales(checkpoint_of({n: value for n, value in scales.items() if value is not None}), GEOMETRY)
    for word in words:
        assert word in str(caught.value)


def test_dummy_weights_have_ones() -> None:
    checkpoint = replace(checkpoint_of({}), tensors={})
    found = cache_scales(checkpoint, GEOMETRY, None, lambda stage, fraction: None)
    assert list(found) == [scales_name(0), scales_name(1)]
    assert (found[scales_name(1)].load() == np.ones((2, 3))).all()


def test_scales_leave_room() -> None:
    peaks = np.array([0, 1e-3, 0.9, 1, 50, 112, 113, 448, 1e6])
    scales = _powers_of_two(peaks)
    np.testing.assert_array_equal(scales[[0, 3, 4, 5]], 1)
    others = peaks[[1, 2, 6, 7, 8]] / scales[[1, 2, 6, 7, 8]]
    assert ((others > 448 / 8) & (others <= 448 / 4)).all()
    with pytest.raises(CompileError, match="layer 0 are not finite"):
        _powers_of_two(np.array([np.inf]))


CASE = case("llama_kv_scales", "Llama", WIDE)
LOUD = 600.0


@pytest.fixture
def loud(tmp_path: Path) -> tuple[Path, np.ndarray, list[int]]:
    """A model whose keys are far beyond 448, its queries as much smaller; its logits for some tokens."""
    torch = pytest.importorskip("torch")
    model = make_checkpoint(CASE, tmp_path / "checkpoint")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight *= LOUD
            layer.self_attn.q_proj.weight /= LOUD
            layer.self_attn.v_proj.weight /= LOUD
            layer.self_attn.o_proj.weight *= LOUD
    model.save_pretrained(tmp_path / "checkpoint")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    return tmp_path / "checkpoint", logits_of(model, ids), ids


def test_measured_scales_hold_keys_that_would_saturate_and_values_that_would_vanish(
    loud: tuple[Path, np.ndarray, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected, ids = loud
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    apart = {}
    for kind in ("measured", "ones"):
        if kind == "ones":
            monkeypatch.setattr("warploom.cache_scales._powers_of_two", lambda peaks: np.ones_like(peaks, np.float32))
        compile(folder, quantization="f32", kv_cache="fp8", out=tmp_path / kind)
        with Teacher(load(tmp_path / kind), threads=1) as teacher:
            found = teacher.logits(ids, [LENGTH])
            np.testing.assert_array_equal(teacher.logits(ids, [1, 70, LENGTH - 79, *[1] * 8]), found)
        apart[kind] = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    print(apart)
    assert apart["measured"] <= 0.15  # as in tests/model/families/test_kv_caches.py
    assert apart["ones"] > 2 * apart["measured"]


def test_measured_scales_leave_room(loud: tuple[Path, np.ndarray, list[int]]) -> None:
    checkpoint = open_checkpoint(loud[0])
    with new_context(), mlir.Location.unknown():
        found = cache_scales(checkpoint, geometry_of(checkpoint.config), None, lambda stage, fraction: None)
        again = cache_scales(checkpoint, geometry_of(checkpoint.config), None, lambda stage, fraction: None)
        with pytest.raises(CompileError, match="too short"):
            cache_scales(checkpoint, geometry_of(checkpoint.config), "a word", lambda stage, fraction: None)
    for name, tensor in found.items():
        scales = tensor.load()
        assert (np.frexp(scales)[0] == 0.5).all(), "powers of two"
        assert (scales[0] > 1000 * scales[1]).all()
        np.testing.assert_array_equal(scales, again[name].load())


def test_scales_of_a_checkpoint_are_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensible ones keep the logits; those of keys and values a thousand times too small clip everything."""
    save_file = pytest.importorskip("safetensors.numpy").save_file
    load_file = pytest.importorskip("safetensors.numpy").load_file
    monkeypatch.setattr("warploom.codegen.cpu.backend.LEVELS", RUNNABLE[:1])
    model = make_checkpoint(CASE, tmp_path)
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    expected, weights = logits_of(model, ids), load_file(tmp_path / "model.safetensors")
    apart = {}
    for scale in (0.07, 7e-5):
        each = {f"model.layers.{i}.self_attn.{which}_scale" for i in range(len(model.model.layers)) for which in "kv"}
        stored = weights | {name: np.array([scale], np.float32) for name in each}
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
        artifact = compile(tmp_path, quantization="f32", kv_cache="fp8", out=tmp_path / f"artifact-{scale}")
        with Teacher(artifact, threads=1) as teacher:
            found = teacher.logits(ids, [LENGTH])
        apart[scale] = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    print(apart)
    assert apart[0.07] <= 0.15
    assert apart[7e-5] > 0.5
