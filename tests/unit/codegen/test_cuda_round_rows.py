"""Rows rounded to FP8 on CUDA: in Triton's interpreter, every number is the one that `quantize` has, ties included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.gpu.rounded_rows import wrong_rows
from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.kernels.linear_problem import Norm
from warploom.codegen.cuda.kernels.round_rows import RoundRowsSpec
from warploom.ir.ops.quantize import quantize
from warploom.ir.types import DType

TOKENS, K = 64, 144
EPS = 1e-5


def rounded(x: np.ndarray, gain: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scales of bf16 rows, by the kernel."""
    spec = RoundRowsSpec(K, DType.BF16, None if gain is None else Norm(EPS, DType.BF16), pdl=False)
    codes, scale = np.zeros(x.shape, DType.F8.numpy), np.zeros(len(x), np.float32)
    run_kernel(spec, [x, *([] if gain is None else [gain]), codes, scale], {"T": len(x)})
    return codes, scale


def rows_of_ties() -> np.ndarray:
    """Under a maximum of 7 * 28 a multiple of 7 becomes a whole number of 16: one of five bits lies between two f8."""
    x = 7 * np.random.default_rng(2).integers(-27, 28, (TOKENS, K))
    x[:, 7] = np.resize([196, -196, 224], TOKENS)
    return x.astype(DType.BF16.numpy)


def as_torch(array: np.ndarray) -> torch.Tensor:
    types = {ml_dtypes.bfloat16: torch.bfloat16, ml_dtypes.float8_e4m3fn: torch.float8_e4m3fn}
    kind = types.get(array.dtype.type)
    return torch.from_numpy(array) if kind is None else torch.from_numpy(array.view(f"i{array.itemsize}")).view(kind)


def test_numbers_are_those_of_quantize() -> None:
    x = rows_of_ties()
    codes, scale = rounded(x)
    expected, scales = quantize.evaluate(x.astype(np.float32), dtype="f8e4m3", group=0, scale_dtype="f32")
    np.testing.assert_array_equal(scale, scales[:, 0])
    np.testing.assert_array_equal(codes, expected)
    assert not wrong_rows(as_torch(x), None, torch.ones(K), [as_torch(codes), as_torch(scale)])


def test_the_check_on_a_gpu_sees_the_last_bit_of_a_scale() -> None:
    """Torch on CUDA makes x / 448 a product, and so did the reference that the kernels were held against."""
    x = rows_of_ties()
    wide = x.astype(np.float32)
    scale = np.abs(wide).max(1) * np.float32(1 / 448)
    codes = (wide / scale[:, None]).astype(DType.F8.numpy)
    expected, scales = rounded(x)
    assert (codes != expected).mean() > 0.01
    assert wrong_rows(as_torch(x), None, torch.ones(K), [as_torch(expected), as_torch(scale)])
    assert wrong_rows(as_torch(x), None, torch.ones(K), [as_torch(codes), as_torch(scales)])


@pytest.mark.parametrize("seed", [0, 1])
def test_normed_rows_are_rounded_as_bf16(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TOKENS, K)).astype(DType.BF16.numpy)
    gain = (1 + 0.1 * rng.standard_normal(K)).astype(DType.BF16.numpy)
    norm = {"eps": EPS}
    codes, scale = rounded(x, gain)
    assert not wrong_rows(as_torch(x), norm, as_torch(gain), [as_torch(codes), as_torch(scale)])
    normed = x / np.sqrt((x.astype(np.float32) ** 2).mean(1, keepdims=True) + EPS) * gain.astype(np.float32)
    wide, scales = quantize.evaluate(normed.astype(np.float32), dtype="f8e4m3", group=0, scale_dtype="f32")
    kept = [as_torch(wide), as_torch(scales[:, 0])]  # never made bf16
    assert wrong_rows(as_torch(x), norm, as_torch(gain), kept)
