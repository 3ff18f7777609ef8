"""Tensors that are stored in another form: shapes, values, and the numbers of blocks that are kept."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Kind

from warploom.frontend.gguf_file import GGUFTensor
from warploom.frontend.gguf_restore import BLOCKS, MXFP4, Join, restored
from warploom.frontend.quantized.format import values
from warploom.frontend.tensors import LazyTensor
from warploom.ir.ops.mxfp4 import mxfp4_values

COUNT, N, K = 3, 4, 64
GATE_UP = Join(("gate", "up"), "both", woven=True, transposed=True, kept=(*MXFP4, *BLOCKS))


def stored(name: str, kind: Kind, seed: int) -> GGUFTensor:
    numbers = np.random.default_rng(seed).normal(size=(COUNT, N, K)).astype(np.float32)
    return GGUFTensor(name, numbers.shape, kind, gguf.quants.quantize(numbers, kind).reshape(-1).view(np.uint8))


def expected(tensor: GGUFTensor) -> np.ndarray:
    _, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    result: np.ndarray = gguf.quants.dequantize(tensor.data.reshape(-1, size), tensor.kind).reshape(tensor.shape)
    return result


def of_parts(tensor: LazyTensor) -> np.ndarray:
    parts = [part.load() for part in tensor.parts]
    for part, array in zip(tensor.parts, parts, strict=True):
        assert part.shape == array.shape
    return mxfp4_values(*parts) if parts[1].dtype == np.int8 else values(*parts)


@pytest.mark.parametrize("kind", [Kind.MXFP4, Kind.Q8_0, Kind.Q4_1], ids=lambda kind: kind.name)
def test_rows_stand_in_turn_in_values_and_in_numbers(kind: Kind) -> None:
    gate, up = stored("gate", kind, 0), stored("up", kind, 1)
    found = restored(GATE_UP, "both", (gate, up), "test")
    assert found.shape == (COUNT, K, 2 * N)
    assert found.dtype == ("bf16" if kind is Kind.MXFP4 else "f32")
    woven = np.empty((COUNT, 2 * N, K), np.float32)
    woven[:, 0::2], woven[:, 1::2] = expected(gate), expected(up)
    np.testing.assert_allclose(found.load().astype(np.float32), woven.swapaxes(1, 2), rtol=1e-6)
    np.testing.assert_allclose(of_parts(found), woven.reshape(-1, K), rtol=2e-3, atol=2e-3)


def test_kinds_that_differ_are_read_as_floats() -> None:
    found = restored(GATE_UP, "both", (stored("gate", Kind.Q8_0, 0), stored("up", Kind.F32, 1)), "test")
    assert found.dtype == "f32"
    assert not found.parts


def test_kinds_that_a_family_does_not_keep_are_read_as_floats() -> None:
    only = replace(GATE_UP, kept=MXFP4)
    assert not restored(only, "both", (stored("gate", Kind.Q8_0, 0), stored("up", Kind.Q8_0, 1)), "test").parts


def test_maps_of_each_head_become_rows() -> None:
    keys, rest = stored("k", Kind.F32, 0), stored("v", Kind.F32, 1)
    keys = replace(keys, shape=(COUNT, K, N))  # [heads, latent, plain]
    rest = replace(rest, shape=(COUNT, N, K))
    found = restored(Join(("k", "v"), "kv", heads=True), "kv", (keys, rest), "test")
    each = found.load().reshape(COUNT, 2 * N, K)
    assert found.shape == (COUNT * 2 * N, K)
    np.testing.assert_array_equal(each[:, :N], expected(keys).swapaxes(1, 2))
    np.testing.assert_array_equal(each[:, N:], expected(rest))
