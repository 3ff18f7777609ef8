"""MXFP4 against its definition (OCP Microscaling Formats 1.0), and against transformers' own reading of gpt-oss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from warploom.frontend.quantized.mxfp4 import rows_of_blocks
from warploom.ir.ops.mxfp4 import dequantize_mxfp4, quantize_mxfp4

# Every number of four bits: (-1)^s * 2^(max(e, 1) - 1) * (min(e, 1) + m / 2).
E2M1 = [
    (-1) ** s * 2.0 ** (max(e, 1) - 1) * (min(e, 1) + m / 2) for s, e, m in itertools.product((0, 1), range(4), (0, 1))
]


def blocks_of(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Any bytes, as checkpoints hold them: blocks u8 [.., groups, 16] and scales u8 [.., groups], none of them NaN."""
    return rng.integers(0, 256, (*shape, 16), np.uint8), rng.integers(100, 150, shape, np.uint8)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 90])
def test_blocks_of_a_checkpoint_stand_for_what_the_definition_says(groups: int) -> None:
    blocks, scales = blocks_of(np.random.default_rng(groups), 3, 5, groups)
    codes = np.stack((blocks & 15, blocks >> 4), -1).reshape(3, 5, groups, 32)
    defined = np.array(E2M1)[codes] * 2.0 ** (scales.astype(np.float64) - 127)[..., None]
    found = dequantize_mxfp4.evaluate(*rows_of_blocks(blocks, scales))
    np.testing.assert_array_equal(found, defined.reshape(15, groups * 32))


def test_blocks_stand_for_what_transformers_makes_of_them() -> None:
    blocks, scales = blocks_of(np.random.default_rng(0), 4, 10, 6)
    theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    found = dequantize_mxfp4.evaluate(*rows_of_blocks(blocks, scales)).reshape(4, 10, 192)
    np.testing.assert_array_equal(found.transpose(0, 2, 1), theirs.numpy())


def test_scales_at_the_ends_of_their_range() -> None:
    blocks = np.full((1, 1, 3, 16), 0x22, np.uint8)  # ones
    values = dequantize_mxfp4.evaluate(*rows_of_blocks(blocks, np.array([[[0, 254, 255]]], np.uint8)))
    assert values[0, 0] == 2.0**-127
    assert values[0, 32] == 2.0**127
    assert np.isnan(values[0, 64])


def test_quantizing_takes_the_nearest_number_and_ties_to_even() -> None:
    """Every quarter of a step up to past the largest number, in groups whose largest exponent is 4's."""
    values = np.arange(64) / 8
    x = np.stack([np.append(sign * values[i : i + 31], 4.0) for sign in (1, -1) for i in (0, 31)]).astype(np.float32)
    found = dequantize_mxfp4.evaluate(*quantize_mxfp4.evaluate(x))
    numbers = np.array(E2M1[:8])
    distance = np.abs(np.abs(x)[..., None] - numbers)
    nearest = distance == distance.min(-1, keepdims=True)
    even = np.array([1, 0] * 4)  # the last bit of the code is 0
    expected = np.where(nearest.sum(-1) > 1, (nearest * even).argmax(-1), nearest.argmax(-1))
    np.testing.assert_array_equal(np.abs(found), numbers[expected])
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x))


def test_what_is_mxfp4_stays_as_it_is() -> None:
    rng = np.random.default_rng(1)
    x = dequantize_mxfp4.evaluate(*rows_of_blocks(*blocks_of(rng, 1, 7, 6)))
    x[:, ::32] = np.where(x[:, ::32] < 0, -6, 6) * 2.0**-3  # the largest number is there, and so the scale is found
    x = np.where(np.abs(x) > 6 * 2.0**-3, 0, x).astype(np.float32)
    again = dequantize_mxfp4.evaluate(*quantize_mxfp4.evaluate(x))
    rounded = np.abs(again - x) > 2.0**-3 * 0.25
    assert not rounded.any()


def test_a_group_of_zeros_is_zeros() -> None:
    assert not dequantize_mxfp4.evaluate(*quantize_mxfp4.evaluate(np.zeros((2, 64), np.float32))).any()
