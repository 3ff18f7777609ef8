"""Meanings that have an outside reference: published test vectors, and definitions restated without cleverness."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.errors import IRError
from warploom.ir.layouts import LAYOUTS, pack_array, rows_of, unpack_array
from warploom.ir.ops.attention import attention
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.quantize import quantize, quantize_affine, quantize_static
from warploom.ir.ops.random import random_bits, threefry2x32
from warploom.ir.ops.reduce import argmax, dot_general, sort, top_k
from warploom.ir.ops.sample import sample, top_logprobs
from warploom.ir.ops.shape import broadcast, full, gather, reshape, scatter, slice_axis
from warploom.ir.types import DType, tensor

SEEDS = st.integers(0, 2**16)
PAGE_SIZE, HEAD = 4, 8


@pytest.mark.parametrize(
    ("key", "counter", "word"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), 0x6B200159),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 0x1CB996FC),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 0xC4923A9C),
    ],
)
def test_threefry_gives_the_known_answers_of_random123(
    key: tuple[int, int], counter: tuple[int, int], word: int
) -> None:
    words = [np.array([w], np.uint32) for w in (*key, *counter)]
    assert threefry2x32(*words) == [word]


def test_random_bits_put_row_and_column_into_the_counter() -> None:
    keys = np.array([[1, 2], [-1, 5]], np.int32)
    bits = random_bits.evaluate(keys, np.array([7, 9], np.int32), n=3)
    assert isinstance(bits, np.ndarray)
    for row, column in np.ndindex(2, 3):
        words = (*keys[row].view(np.uint32), np.uint32((7, 9)[row]), np.uint32(column))
        assert bits[row, column].view(np.uint32) == threefry2x32(*(np.array([w]) for w in words))[0]


def sampling_row(rng: np.random.Generator, vocab: int, **changes: Any) -> list[np.ndarray]:
    """Operands of `sample` for one row: a plain draw unless changed."""
    plain: dict[str, Any] = {
        "logits": np.rint(rng.normal(size=(1, vocab)) * 4) / 2,  # on a grid, so that logits tie
        "temperature": [1.0], "top_k": [0], "top_p": [1.0], "min_p": [0.0],
        "repetition_penalty": [1.0], "presence_penalty": [0.0], "frequency_penalty": [0.0],
        "seeds": rng.integers(-(2**31), 2**31, (1, 2)), "sample_positions": rng.integers(0, 2**20, 1),
        "penalty_tokens": [[-1]], "penalty_counts": [[0]], "bias_tokens": [[-1]], "bias_values": [[0.0]],
        "banned_bits": [[0]],
    }  # fmt: skip
    integers = ("top_k", "seeds", "sample_positions", "penalty_tokens", "penalty_counts", "bias_tokens", "banned_bits")
    return [np.array(v, np.int32 if n in integers else np.float32) for n, v in (plain | changes).items()]


def draw(operands: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    tokens, logprobs = sample.evaluate(*operands)
    return tokens, logprobs


@given(SEEDS, st.integers(0, 9), st.sampled_from([0.1, 0.37, 0.77, 1.0]), st.sampled_from([0.0, 0.05, 0.4]))
def test_sampling_keeps_what_its_definition_keeps(seed: int, k: int, p: float, floor: float) -> None:
    """Token by token, as the contract says it."""
    operands = sampling_row(np.random.default_rng(seed), 11, top_k=[k], top_p=[p], min_p=[floor], temperature=[0.7])
    x = operands[0][0] / np.float32(0.7)
    in_k = [k == 0 or sum(other > own for other in x) < k for own in x]
    mass = [math.exp(v) if kept else 0.0 for v, kept in zip(x, in_k, strict=True)]
    probability = [m / sum(mass) for m in mass]
    above = [sum(q for other, q in zip(x, probability, strict=True) if other > own) for own in x]
    kept = [
        in_k[i] and (p == 1 or above[i] < p) and probability[i] >= floor * max(probability) - 1e-9 for i in range(11)
    ]
    bits = random_bits.evaluate(operands[8], operands[9], n=11)
    assert isinstance(bits, np.ndarray)
    uniform = ((bits[0].view(np.uint32) >> 8) + 0.5) * 2.0**-24
    noisy = x - np.log(-np.log(uniform))
    expected = max((i for i in range(11) if kept[i]), key=lambda i: noisy[i])
    tokens, logprobs = draw(operands)
    assert tokens[0] == expected
    raw = operands[0][0].astype(np.float64)
    np.testing.assert_allclose(logprobs[0], raw[expected] - np.log(np.exp(raw).sum()), atol=1e-5)


@given(SEEDS)
def test_a_row_is_sampled_as_if_it_were_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [sampling_row(rng, 11, temperature=[t], top_k=[k]) for t, k in ((0.0, 0), (1.0, 3), (0.5, 0))]
    together = draw([np.concatenate(parts) for parts in zip(*rows, strict=True)])
    for i, row in enumerate(rows):
        alone = draw(row)
        assert alone[0][0] == together[0][i]
        assert alone[1][0] == together[1][i]


def test_the_distribution_of_draws_is_the_softmax() -> None:
    logits = np.log([[0.5, 0.3, 0.2]])
    rng = np.random.default_rng(0)
    row = sampling_row(rng, 3, logits=logits)
    count = 4000
    many = [np.repeat(a, count, 0) for a in row]
    many[9] = np.arange(count, dtype=np.int32)
    frequency = np.bincount(draw(many)[0], minlength=3) / count
    np.testing.assert_allclose(frequency, [0.5, 0.3, 0.2], atol=0.025)  # 3 standard deviations


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"logits": [[1, 3, 3, 2]]}, 1),  # the lowest index wins ties
        ({"logits": [[1, 3, 2.5, 2]], "bias_tokens": [[2]], "bias_values": [[1.0]]}, 2),
        ({"logits": [[1, 3, 2.5, 2]], "bias_tokens": [[1]], "bias_values": [[-np.inf]]}, 2),
        ({"logits": [[1, 3, 2.5, 2]], "banned_bits": [[0b0010]]}, 2),
        ({"logits": [[1, 3, 2.5, 2]], "banned_bits": [[0b0110]], "bias_tokens": [[1]], "bias_values": [[100.0]]}, 3),
        ({"logits": [[1, 3, 2.5, 2]], "repetition_penalty": [1.5], "penalty_tokens": [[1]]}, 2),
        ({"logits": [[-2, -1, -1.2, -3]], "repetition_penalty": [1.5], "penalty_tokens": [[1]]}, 2),
        # a token of the prompt only (count 0) is not presence-penalized; one of the output is
        ({"logits": [[1, 3, 2.5, 2]], "presence_penalty": [1.0], "penalty_tokens": [[1]]}, 1),
        (
            {"logits": [[1, 3, 2.5, 2]], "presence_penalty": [1.0], "penalty_tokens": [[1]], "penalty_counts": [[1]]},
            2,
        ),
        (
            {"logits": [[1, 3, 2.5, 2]], "frequency_penalty": [0.2], "penalty_tokens": [[1]], "penalty_counts": [[3]]},
            2,
        ),
    ],
)
def test_greedy_sees_biases_and_penalties(changes: dict[str, Any], token: int) -> None:
    operands = sampling_row(np.random.default_rng(0), 4, temperature=[0.0], **changes)
    assert draw(operands)[0][0] == token


def test_ties_go_to_the_lowest_index() -> None:
    x = np.array([[1, 3, 3, 2, 3]], np.float32)
    assert argmax.evaluate(x)[0] == 1
    values, indices = top_k.evaluate(x, k=4)
    np.testing.assert_array_equal(values, [[3, 3, 3, 2]])
    np.testing.assert_array_equal(indices, [[1, 2, 4, 3]])
    tokens, _ = top_logprobs.evaluate(x, k=4)
    np.testing.assert_array_equal(tokens, [[1, 2, 4, 3]])
    np.testing.assert_array_equal(sort.evaluate(x), [[3, 3, 3, 2, 1]])


@given(SEEDS, st.sampled_from(["token_major", "dim_major"]), st.sampled_from([0, 3]))
def test_attention_over_pages_is_attention_over_what_was_written(seed: int, k_layout: str, window: int) -> None:
    """Two sequences with a past, written token by token and read in one ragged step, and one padding token."""
    rng = np.random.default_rng(seed)
    contexts, news = rng.integers(3, 9, 2), rng.integers(1, 4, 2)
    table = rng.permutation(6).reshape(2, 3).astype(np.int32)
    paging: dict[str, Any] = {"layer": 1, "page_size": PAGE_SIZE, "k_layout": k_layout}
    kv = np.zeros((2, 6, 2, 2, PAGE_SIZE * HEAD), np.float32)
    keys, values = (rng.normal(size=(2, 9, 2, HEAD)).astype(np.float32) for _ in range(2))
    for s, context in enumerate(contexts):
        position = np.arange(context)
        slots = (table[s, position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE).astype(np.int32)
        kv = kv_write.evaluate(kv, keys[s, :context], values[s, :context], slots, **paging)
    assert not kv[0].any()
    starts = np.concatenate([[0], np.cumsum(news)]).astype(np.int32)
    q = rng.normal(size=(starts[2] + 1, 4, HEAD)).astype(np.float32)
    found = attention.evaluate(q, kv, table, starts, contexts.astype(np.int32), **paging, scale=0.3, window=window)
    for s, context in enumerate(contexts):
        for t in range(news[s]):
            at = context - news[s] + t
            first = max(0, at - window + 1) if window else 0
            for head in range(4):
                row = q[starts[s] + t, head].astype(np.float64)
                weights = np.exp(keys[s, first : at + 1, head // 2] @ row * 0.3)
                wanted = weights @ values[s, first : at + 1, head // 2] / weights.sum()
                np.testing.assert_allclose(found[starts[s] + t, head], wanted, atol=1e-5)
    assert not found[starts[2] :].any()


def test_a_negative_slot_writes_nothing() -> None:
    kv = np.ones((1, 2, 2, 1, PAGE_SIZE * HEAD), np.float32)
    new = np.full((2, 1, HEAD), 5, np.float32)
    slots = np.array([-1, 6], np.int32)
    result = kv_write.evaluate(kv, new, new, slots, layer=0, page_size=PAGE_SIZE, k_layout="dim_major")
    assert (result != kv).sum() == 2 * HEAD
    assert (kv == 1).all()


@given(SEEDS, st.sampled_from(sorted(LAYOUTS)))
def test_packing_loses_nothing(seed: int, layout: str) -> None:
    rng = np.random.default_rng(seed)
    n, k = (int(rng.integers(1, 3)) * 64 if layout.endswith("pair") else int(rng.integers(1, 80))), 32
    few = rng.integers(-8, 8, (n, k))
    weight = few.astype(ml_dtypes.int4) if LAYOUTS[layout].nibbles else few.astype(np.float32)
    packed = pack_array(weight, layout)
    np.testing.assert_array_equal(unpack_array(packed, n, layout), weight)
    rows = rng.integers(0, n, (2, 5))
    np.testing.assert_array_equal(rows_of(packed, rows, layout), weight[rows])
    np.testing.assert_array_equal(embed.evaluate(rows, packed, n=n, layout=layout), few[rows])
    x = rng.normal(size=(2, k)).astype(np.float32)
    if not LAYOUTS[layout].nibbles:
        np.testing.assert_allclose(linear.evaluate(x, packed, n=n, layout=layout), x @ few.T, atol=1e-4)


def test_four_bits_lie_where_the_layouts_say() -> None:
    few = np.random.default_rng(0).integers(-8, 8, (33, 64))
    rows = pack_array(few.astype(np.int8), "row4").view(np.uint8)
    np.testing.assert_array_equal(rows & 15, few[:, :32] + 8)
    np.testing.assert_array_equal(rows >> 4, few[:, 32:] + 8)
    quads = pack_array(few.astype(np.int8), "quad4").view(np.uint8)  # [2, 8, 128]
    assert quads[1, 3, 4 * 0 + 2] & 15 == few[32, 8 * 3 + 2] + 8
    assert quads[0, 3, 4 * 7 + 1] >> 4 == few[7, 8 * 3 + 4 + 1] + 8


@given(SEEDS, st.sampled_from([(d, s) for d in ("i8", "i4") for s in ("f32", "f16")]))
def test_quantization_is_within_half_a_step(seed: int, dtypes: tuple[str, str]) -> None:
    weight = np.random.default_rng(seed).normal(size=(5, 8)).astype(np.float32)
    weight[2] = 0
    largest = {"i8": 127, "i4": 8}[dtypes[0]]
    q, scale = quantize.evaluate(weight, dtype=dtypes[0], group=4, scale_dtype=dtypes[1])
    assert q.dtype == DType(dtypes[0]).numpy
    grouped, values = weight.reshape(5, 2, 4), q.astype(np.float32).reshape(5, 2, 4) * scale[..., None]
    reach = np.where(dtypes[0] == "i4", 1.01, 0.501)  # the other end of four bits is one step short
    assert (scale[2] == 1).all()
    assert (np.abs(values - grouped) <= np.abs(scale[..., None]) * reach).all()
    peaks = np.abs(q.astype(np.int32)).reshape(5, 2, 4).max(-1)
    np.testing.assert_array_equal(peaks, np.where(np.arange(5) == 2, 0, largest)[:, None].repeat(2, 1))


@given(SEEDS)
def test_four_bits_keep_what_they_can_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    few = rng.integers(-8, 8, (4, 32))
    few[:, 7] = -8
    weight = (few * rng.choice([0.5, 0.125, -0.0625], (4, 1))).astype(np.float32)
    q, scale = quantize.evaluate(weight, dtype="i4", group=32, scale_dtype="f16")
    np.testing.assert_array_equal(dequantize.evaluate(q, scale), weight)


@given(SEEDS, st.sampled_from(["i8", "i4"]))
def test_affine_quantization_reaches_from_the_minimum_to_the_maximum(seed: int, dtype: str) -> None:
    weight = (np.random.default_rng(seed).normal(size=(5, 8)) + 3).astype(np.float32)
    weight[2] = 0.25
    q, scale, offset = quantize_affine.evaluate(weight, dtype=dtype, group=4, scale_dtype="f32")
    values = dequantize.evaluate(q, scale, offset)
    assert (np.abs(values - weight) <= np.repeat(scale, 4, 1) * 0.501).all()
    np.testing.assert_array_equal(values[2], weight[2])


def test_f8_rounds_as_ml_dtypes_does_and_stays_finite() -> None:
    x = np.array([[0.1, -448.0, 3.3, 500.0]], np.float32)
    q = quantize_static.evaluate(x, np.ones(1, np.float32), dtype="f8e4m3")
    np.testing.assert_array_equal(q, np.array([[0.1, -448, 3.3, 448]], ml_dtypes.float8_e4m3fn))
    q, scale = quantize.evaluate(x, dtype="f8e4m3", group=0, scale_dtype="f32")
    assert scale == np.float32(500) / np.float32(448)
    np.testing.assert_allclose(dequantize.evaluate(q, scale), x, rtol=2**-4)


def test_indices_outside_are_clamped_or_ignored() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(gather.evaluate(x, np.array([-5, 1, 9])), x[[0, 1, 2]])
    result = scatter.evaluate(x, np.array([-1, 2]), np.array([[9, 9], [7, 7]], np.float32))
    np.testing.assert_array_equal(result, [[0, 1], [2, 3], [7, 7]])


VECTOR, MATRIX = tensor(("T",)), tensor((2, 3))


@pytest.mark.parametrize(
    ("infer", "message"),
    [
        (lambda: reshape.result_types([MATRIX], {"shape": (5,)}), "number of elements"),
        (lambda: reshape.result_types([VECTOR], {"shape": (4,)}), "cannot decide"),
        (lambda: reshape.result_types([MATRIX], {}), "wrong attributes"),
        (lambda: reshape.result_types([MATRIX], {"shape": (6,), "axis": 0}), "wrong attributes"),
        (lambda: reshape.result_types([MATRIX, MATRIX], {"shape": (6,)}), "wrong number of operands"),
        (lambda: argmax.result_types([tensor((2,), DType.I1)], {}), "operand x has the wrong dtype"),
        (lambda: argmax.result_types([tensor(())], {}), "no axis"),
        (lambda: broadcast.result_types([MATRIX], {"shape": (2, 3), "dims": (-2, 1)}), "must map"),
        (lambda: broadcast.result_types([MATRIX], {"shape": (3, 2), "dims": (1, 0)}), "must map"),
        (lambda: broadcast.result_types([MATRIX], {"shape": (2, 4), "dims": (0, 1)}), "cannot stretch"),
        (lambda: slice_axis.result_types([VECTOR], {"axis": 0, "start": 0, "stop": 1}), "not a static axis"),
        (lambda: slice_axis.result_types([MATRIX], {"axis": 1, "start": 0, "stop": 4}), "outside the axis"),
        (lambda: full.result_types([], {"shape": (2,), "value": 0.5, "dtype": "i32"}), "does not hold"),
        (lambda: full.result_types([], {"shape": (2,), "value": 300.0, "dtype": "i8"}), "does not hold"),
        (lambda: full.result_types([], {"shape": (2,), "value": 0.0, "dtype": "f8"}), "unknown dtype"),
        (lambda: full.result_types([], {"shape": (-2,), "value": 0.0, "dtype": "f32"}), "negative"),
        (lambda: contract((1,), (1, 0), (), ()), "different numbers"),
        (lambda: contract((1,), (1,), (0,), ()), "different numbers"),
        (lambda: contract((1, 1), (1, 1), (), ()), "listed twice"),
        (lambda: contract((1,), (0,), (), ()), "does not fit"),
    ],
)
def test_inference_refuses(infer: Any, message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(IRError, match=message):
        infer()


def contract(*dims: tuple[int, ...]) -> Any:
    names = ("x_contract", "y_contract", "x_batch", "y_batch")
    return dot_general.result_types([MATRIX, MATRIX], dict(zip(names, dims, strict=True)))
