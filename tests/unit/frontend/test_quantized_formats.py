"""Checkpoints that others quantized: every format means what its definition says, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_file import GGUFTensor
from warploom.frontend.quantized.format import read_quantized, values
from warploom.frontend.quantized.gguf_blocks import parts_of
from warploom.frontend.tensors import LazyTensor

N, K, GROUP = 16, 256, 32
PATH = "model.layers.0.mlp.up_proj"
Arrays = dict[str, np.ndarray]


def lazy(arrays: Mapping[str, np.ndarray]) -> dict[str, LazyTensor]:
    names = {np.dtype(ml_dtypes.float8_e4m3fn): "f8e4m3", np.dtype(np.float16): "f16", np.dtype(np.int8): "i8"}
    return {
        f"{PATH}.{name}": LazyTensor(
            f"{PATH}.{name}", array.shape, names.get(array.dtype, "f32"), "test", partial(np.asarray, array)
        )
        for name, array in arrays.items()
    }


def numbers(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unsigned q [N, K], zeros [N, groups] and scales [N, groups]."""
    rng = np.random.default_rng(bits)
    q = rng.integers(0, 1 << bits, (N, K))
    zeros = rng.integers(1, 1 << bits, (N, K // GROUP))
    return q, zeros, rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)


def meaning(q: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    group = np.arange(K) // GROUP if group is None else group
    return ((q - zeros[:, group]) * scales.astype(np.float64)[:, group]).astype(np.float32)


def words(rows: np.ndarray, bits: int, order: tuple[int, ...]) -> np.ndarray:
    """Pack the last axis: number order[i] of each run of 32/bits stands at bit i * bits."""
    count = 32 // bits
    runs = rows.reshape(*rows.shape[:-1], -1, count).astype(np.uint64)
    packed = sum(runs[..., number] << np.uint64(bits * place) for place, number in enumerate(order))
    return np.asarray(packed).astype(np.uint32).view(np.int32)


def awq() -> tuple[dict[str, Any], Arrays, np.ndarray]:
    q, zeros, scales = numbers(4)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    arrays = {"qweight": words(q.T, 4, order), "qzeros": words(zeros.T, 4, order), "scales": scales.T.copy()}
    return {"quant_method": "awq", "bits": 4, "version": "gemm"}, arrays, meaning(q, zeros, scales)


def gptq(
    bits: int, kind: str, group_size: int = GROUP, *, shuffled: bool = False, sym: bool = False
) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """A group_size of -1 is one group of all columns, as AutoGPTQ spells it."""
    rng, size = np.random.default_rng(bits), K if group_size == -1 else group_size
    q, zeros = rng.integers(0, 1 << bits, (N, K)), rng.integers(1, 1 << bits, (N, K // size))
    zeros = np.full_like(zeros, 1 << (bits - 1)) if sym else zeros
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    natural = tuple(range(32 // bits))
    group = np.arange(K) // size
    if shuffled:
        group = np.random.default_rng(0).permutation(group)
    arrays = {
        "qweight": words(q, bits, natural).T.copy(),
        "qzeros": words((zeros - (kind == "gptq")).T, bits, natural),
        "scales": scales.T.copy(),
        "g_idx": group.astype(np.int32),
    }
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": kind, "desc_act": shuffled}
    return config, arrays, meaning(q, zeros, scales, group)


def packed(with_zeros: bool, *, shuffled: bool = False) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    q, zeros, scales = numbers(4)
    group = np.random.default_rng(1).permutation(np.arange(K) // GROUP) if shuffled else np.arange(K) // GROUP
    zeros = zeros if with_zeros else np.full_like(zeros, 8)
    natural = tuple(range(8))
    arrays = {"weight_packed": words(q, 4, natural), "weight_scale": scales, "weight_shape": np.array([N, K])}
    if with_zeros:
        arrays["weight_zero_point"] = words(zeros.T, 4, natural).T.copy()
    if shuffled:
        arrays["weight_g_idx"] = group.astype(np.int32)
    groups = {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    return config, arrays, meaning(q, zeros, scales, group)


def plain(kind: str, method: str, dtype: Any) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    rng = np.random.default_rng(0)
    weight = rng.integers(-100, 100, (N, K)).astype(np.float32).astype(dtype)
    scale = rng.uniform(0.01, 0.1, (N, 1)).astype(np.float32)
    wide = weight.astype(np.float32)
    return {"quant_method": method, "format": kind}, {"weight": weight, "weight_scale": scale}, wide * scale


def blocks() -> tuple[dict[str, Any], Arrays, np.ndarray]:
    config, arrays, _ = plain("", "fp8", ml_dtypes.float8_e4m3fn)
    scale = np.random.default_rng(1).uniform(0.01, 0.1, (2, K // 32)).astype(np.float32)
    every = np.repeat(np.repeat(scale, 10, 0)[:N], 32, 1)  # the last block of rows is not whole
    weight = arrays["weight"]
    config["weight_block_size"] = [10, 32]
    return config, {"weight": weight, "weight_scale_inv": scale}, weight.astype(np.float32) * every


def per_tensor() -> tuple[dict[str, Any], Arrays, np.ndarray]:
    config, arrays, _ = plain("float-quantized", "compressed-tensors", ml_dtypes.float8_e4m3fn)
    scale = np.array([0.5], np.float32)
    return config, arrays | {"weight_scale": scale}, arrays["weight"].astype(np.float32) * 0.5


CASES = {
    "awq": awq(),
    "gptq_v1": gptq(4, "gptq"),
    "gptq_v2": gptq(4, "gptq_v2"),
    "gptq_8_bits": gptq(8, "gptq"),
    **{
        f"gptq_act_order_{bits}_{kind}_g{size}{'_sym' * sym}": gptq(bits, kind, size, shuffled=True, sym=sym)
        for bits in (4, 8)
        for kind in ("gptq", "gptq_v2")
        for size in (32, 64, 128, -1)
        for sym in (False, True)
    },
    "gptq_sym": gptq(4, "gptq", sym=True),
    "compressed_int4": packed(False),
    "compressed_int4_zeros": packed(True),
    "compressed_act_order": packed(False, shuffled=True),
    "compressed_act_order_zeros": packed(True, shuffled=True),
    "compressed_int8": plain("int-quantized", "compressed-tensors", np.int8),
    "compressed_fp8": plain("float-quantized", "compressed-tensors", ml_dtypes.float8_e4m3fn),
    "compressed_fp8_per_tensor": per_tensor(),
    "fp8_blocks": blocks(),
}


@pytest.mark.parametrize("name", CASES)
def test_a_format_means_what_its_definition_says(name: str) -> None:
    config, arrays, expected = CASES[name]
    tensors = read_quantized(config, lazy(arrays), "a model")
    weight = tensors[f"{PATH}.weight"]
    assert weight.shape == (N, K)
    np.testing.assert_allclose(weight.load().astype(np.float32), expected, rtol=1e-6, atol=1e-6)
    others = weight.parts if weight.order is None else (*weight.parts, weight.order)
    assert set(tensors) == {weight.name, *(other.name for other in others)}
    parts = [part.load() for part in weight.parts]
    assert [part.shape for part in weight.parts] == [array.shape for array in parts]
    order = np.arange(K) if weight.order is None else weight.order.load()
    np.testing.assert_allclose(values(*parts), expected[:, order], rtol=1e-6, atol=1e-6)


def weight_of(case: tuple[dict[str, Any], Arrays, np.ndarray]) -> LazyTensor:
    return read_quantized(case[0], lazy(case[1]), "a model")[f"{PATH}.weight"]


def test_symmetric_numbers_need_no_offsets_and_keep_their_scales() -> None:
    assert [part.dtype for part in weight_of(gptq(4, "gptq", sym=True)).parts] == ["i4", "f16"]
    assert [part.dtype for part in weight_of(gptq(4, "gptq")).parts] == ["i4", "f32", "f32"]


def test_a_zero_of_none_borrows_from_its_neighbour_in_the_first_format() -> None:
    """GPTQModel subtracts 0x11111111 from packed words, and adds it when it reads (utils/model.py)."""
    config, arrays, _ = gptq(4, "gptq_v2")
    zeros = np.arange(N * (K // GROUP)).reshape(N, -1) % 16  # 0 among them
    stored = words(zeros.T, 4, tuple(range(8))).view(np.uint32)
    config["checkpoint_format"] = "gptq"
    first = read_quantized(
        config, lazy(arrays | {"qzeros": (stored - np.uint32(0x11111111)).view(np.int32)}), "a model"
    )
    config = config | {"checkpoint_format": "gptq_v2"}
    second = read_quantized(config, lazy(arrays | {"qzeros": stored.view(np.int32)}), "a model")
    for part in first[f"{PATH}.weight"].parts:
        np.testing.assert_array_equal(part.load(), second[part.name].load())
    offset, scale = (np.asarray(first[f"{PATH}.weight.{part}"].load(), np.float64) for part in ("offset", "scale"))
    np.testing.assert_allclose(8 - offset / scale, zeros, atol=1e-4)


def test_modules_of_one_order_have_one_tensor_for_it() -> None:
    config, arrays, _ = gptq(4, "gptq", shuffled=True)
    other = {name.replace("up_proj", "gate_proj"): tensor for name, tensor in lazy(arrays).items()}
    tensors = read_quantized(config, lazy(arrays) | other, "a model")
    orders = [tensors[name].order for name in (f"{PATH}.weight", f"{PATH.replace('up_proj', 'gate_proj')}.weight")]
    assert orders[0] is not None
    assert orders[0] is orders[1]
    assert (orders[0].name, orders[0].shape, orders[0].dtype) == (f"{PATH}.input_order", (K,), "i32")
    assert weight_of(gptq(4, "gptq")).order is None


def test_groups_of_different_sizes_are_read_as_floats() -> None:
    config, arrays, _ = gptq(4, "gptq", 64)
    q, zeros = (arrays[name].view(np.uint32) for name in ("qweight", "qzeros"))
    group = np.minimum(np.arange(K) // 80, 3)
    places = np.arange(0, 32, 4, dtype=np.uint32)
    wide = (q[:, None] >> places[None, :, None] & 15).reshape(K, N).T.astype(np.int64)
    zero = (zeros[..., None] >> places & 15).reshape(-1, N).T.astype(np.int64) + 1
    weight = weight_of((config, arrays | {"g_idx": group.astype(np.int32)}, wide))
    assert not weight.parts
    scale = arrays["scales"].T.astype(np.float64)
    expected = (wide - zero[:, group]) * scale[:, group]
    np.testing.assert_allclose(weight.load().astype(np.float32), expected, rtol=1e-6)
    del arrays["g_idx"]
    with pytest.raises(UnsupportedModelError, match="no g_idx"):
        read_quantized(config, lazy(arrays | {part: arrays[part][:3] for part in ("scales", "qzeros")}), "a model")


def test_columns_without_groups_of_their_own_are_in_order() -> None:
    config, arrays, expected = packed(False)
    weight = weight_of((config, arrays | {"weight_g_idx": np.full(K, -1, np.int32)}, expected))
    assert weight.order is None
    np.testing.assert_allclose(weight.load().astype(np.float32), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.int8])
def test_static_scales_of_what_an_fp8_linear_reads_are_kept(dtype: Any, shape: tuple[int, ...]) -> None:
    config, arrays, _ = plain("float-quantized", "compressed-tensors", dtype)
    found = read_quantized(config, lazy(arrays | {"input_scale": np.full(shape, 0.25, np.float32)}), "a model")
    name = f"{PATH}.input_scale"
    assert (name in found) == (dtype is not np.int8)
    if name in found:
        assert (found[name].shape, found[name].load().tolist()) == ((1,), [0.25])


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
    ],
)
def test_other_variants_are_refused_by_name(config: dict[str, Any], found: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read_quantized(config, {}, "a model")
    assert found in str(caught.value.found)


def test_columns_that_do_not_divide_into_blocks_are_refused() -> None:
    config, arrays, _ = blocks()
    with pytest.raises(UnsupportedModelError, match="do not divide"):
        read_quantized(config | {"weight_block_size": [10, 48]}, lazy(arrays), "a model")


def misshapen(array: np.ndarray) -> list[np.ndarray]:
    halves = [] if array.ndim < 2 else [np.ascontiguousarray(array[:, : array.shape[1] // 2]), array.reshape(-1)]
    return [array[:-1], array[: len(array) // 2], array[None], *halves]


@pytest.mark.parametrize("name", [name for name in CASES if "_8_" not in name and name != "compressed_int4"])
def test_parts_that_do_not_fit_are_refused_never_stretched(name: str) -> None:
    """What is lost or has another shape is an error, or means what it meant: the scale of all rows for each."""
    config, arrays, expected = CASES[name]
    optional = ("g_idx", "weight_g_idx", "weight_zero_point")
    changes = [{n: a for n, a in arrays.items() if n != part} for part in arrays if part not in optional]
    changes += [arrays | {part: changed} for part, array in arrays.items() for changed in misshapen(array)]
    for changed in changes:
        try:
            tensors = read_quantized(config, lazy(changed), "a model")
            loaded = {name: tensor.load() for name, tensor in tensors.items()}
        except (CheckpointError, UnsupportedModelError):
            continue
        weight = loaded.get(f"{PATH}.weight")
        if weight is None or weight.shape != (N, K) or weight.dtype not in (np.float32, np.float16):
            continue  # which compiling refuses
        assert np.allclose(weight, expected), {name: array.shape for name, array in changed.items()}


@pytest.mark.parametrize("stated", [5, "x", [5], [0, 0], [5, "a"], {"a": 5}])
def test_blocks_of_no_size_are_refused(stated: object) -> None:
    config, arrays, _ = blocks()
    with pytest.raises(UnsupportedModelError, match="weight_block_size"):
        read_quantized(config | {"weight_block_size": stated}, lazy(arrays), "a model")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_gguf_blocks_keep_their_numbers(kind: str) -> None:
    weight = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32)
    stored = GGMLQuantizationType[kind]
    data = gguf.quants.quantize(weight, stored)
    parts = parts_of(GGUFTensor("blk.0.ffn_up.weight", (N, K), stored, data.reshape(-1)), np.asarray)
    assert parts is not None
    np.testing.assert_allclose(values(*parts.read()), gguf.quants.dequantize(data, stored), rtol=2e-3, atol=2e-3)


def test_gguf_super_blocks_keep_their_numbers() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (4, 144), np.uint8)  # 144 bytes are a block of Q4_K, 256 numbers
    data[:, :4] = rng.uniform(0.001, 0.01, (4, 2)).astype(np.float16).view(np.uint8).reshape(4, 4)
    parts = parts_of(GGUFTensor("w", (4, 256), GGMLQuantizationType.Q4_K, data.reshape(-1)), np.asarray)
    assert parts is not None
    expected = gguf.quants.dequantize(data, GGMLQuantizationType.Q4_K)
    np.testing.assert_allclose(values(*parts.read()), expected, rtol=2e-3, atol=2e-3)
