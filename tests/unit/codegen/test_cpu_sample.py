"""The sampling kernels against their numpy meaning: token for token, but for ties within rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.codegen.cpu_harness import RUNNABLE, compiled, on_every_isa
from tests.unit.codegen.sampling_rows import Inputs, check_tokens, dims_of, distinct, neutral
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.sample import SampleSpec
from warploom.codegen.cpu.kernels.top_logprobs import TopLogprobsSpec
from warploom.ir.ops.random import random_bits
from warploom.ir.ops.sample import top_logprobs


def run(inputs: Inputs, isa: Isa, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rows, vocab_size = inputs["logits"].shape
    tokens, logprobs = np.full(rows, -9, np.int32), np.full(rows, np.nan, np.float32)
    arrays = [np.ascontiguousarray(array) for array in inputs.values()]
    dims = dims_of(inputs)
    compiled(SampleSpec(vocab_size), isa)([*arrays, tokens, logprobs], dims, threads)
    return tokens, logprobs


def check(inputs: Inputs, isa: Isa) -> None:
    check_tokens(inputs, *run(inputs, isa, threads=2), atol=2e-6)


def banned_bits(rng: np.random.Generator, rows: int, vocab_size: int) -> np.ndarray:
    """None, or many tokens banned in some rows, of the whole vocabulary or of its beginning."""
    words = int(rng.choice([1, -(-vocab_size // 32)]))
    bits = rng.integers(-(2**31), 2**31, (rows, words)) | rng.integers(-(2**31), 2**31, (rows, words))
    return np.where(rng.random((rows, 1)) < 0.5, 0, bits & ~1).astype(np.int32)  # token 0 is left


@on_every_isa
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), vocab_size=st.sampled_from([5, 16, 1000, 4096]))
def test_any_row_is_its_meaning(isa: Isa, seed: int, vocab_size: int) -> None:
    rng = np.random.default_rng(seed)
    rows, history = int(rng.integers(1, 9)), int(rng.integers(0, 12))

    def mixed(neutral_value: float, low: float, high: float) -> np.ndarray:
        return np.where(rng.random(rows) < 0.4, neutral_value, rng.uniform(low, high, rows)).astype(np.float32)

    bias = rng.choice([-np.inf, 5.0, -2.5], (rows, 3)).astype(np.float32)
    inputs = neutral(
        (rng.standard_normal((rows, vocab_size)) * rng.choice([0.1, 1, 8])).astype(np.float32),
        temperature=mixed(0, 0.05, 2),
        top_k=mixed(0, 1, vocab_size + 2),
        top_p=mixed(1, 0, 1),
        min_p=mixed(0, 0, 0.5),
        repetition_penalty=mixed(1, 0.5, 2),
        presence_penalty=mixed(0, -2, 2),
        frequency_penalty=mixed(0, -2, 2),
        seeds=rng.integers(-(2**31), 2**31, (rows, 2)),
        sample_positions=rng.integers(0, 2**31, rows),
        penalty_tokens=distinct(rng, rows, history, vocab_size),
        penalty_counts=rng.integers(0, 4, (rows, history)),
        bias_tokens=distinct(rng, rows, 3, vocab_size) if rng.random() < 0.5 else np.full((rows, 3), -1),
        bias_values=bias,
        banned_bits=banned_bits(rng, rows, vocab_size),
    )
    check(inputs, isa)


@on_every_isa
def test_a_real_vocabulary(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    rows = 12
    inputs = neutral(
        (rng.standard_normal((rows, 49152)) * 3).astype(np.float32),
        temperature=[0, 1, 0.7, 0.7, 1.5, 1, 0, 0.2, 1, 1, 1, 1],
        top_k=[0, 0, 40, 0, 1000, 49152, 0, 1, 0, 7, 49151, 0],
        top_p=[1, 1, 1, 0.9, 0.95, 1, 1, 0.5, 0.3, 0.999, 0.99, 0.0],
        min_p=[0, 0, 0, 0, 0, 0.05, 0, 0, 0.2, 0, 0, 0],
        seeds=rng.integers(-(2**31), 2**31, (rows, 2)),
        sample_positions=np.arange(rows),
    )
    check(inputs, isa)


@on_every_isa
def test_ties_are_kept_together_and_the_first_wins(isa: Isa) -> None:
    logits = np.array([[1, 3, 3, 3, 0], [0, -0.0, 0, -0.0, 0]], np.float32)
    assert run(neutral(logits), isa)[0].tolist() == [1, 0]
    drawn = [
        run(neutral(logits, temperature=[1, 1], top_k=[2, 1], sample_positions=[i, i]), isa)[0] for i in range(100)
    ]
    assert {int(row[0]) for row in drawn} == {1, 2, 3}
    assert {int(row[1]) for row in drawn} == {0, 1, 2, 3, 4}


@on_every_isa
def test_banned_tokens_are_never_drawn(isa: Isa) -> None:
    rng = np.random.default_rng(5)
    banned = {"bias_tokens": np.tile(np.arange(19), (64, 1)), "bias_values": np.full((64, 19), -np.inf)}
    logits = rng.standard_normal((64, 20)).astype(np.float32)
    for temperature in (0.0, 1.0):
        tokens, _ = run(neutral(logits, temperature=np.full(64, temperature), **banned), isa)
        assert (tokens == 19).all()


@on_every_isa
def test_noise_is_finite_where_the_uniform_rounds_to_one(isa: Isa) -> None:
    """Seed 0, position 25095, token 322: all 24 bits are set, and (2^24 - 1 + 0.5) * 2^-24 is 1 in f32."""
    bits = random_bits.evaluate(np.zeros((1, 2), np.int32), np.array([25095], np.int32), n=323)
    assert np.asarray(bits)[0, 322].view(np.uint32) >> 8 == 2**24 - 1
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 322] = -20
    tokens, _ = run(neutral(logits, temperature=[1], sample_positions=[25095]), isa)
    assert tokens[0] != 322


@on_every_isa
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_give_a_valid_token(value: float, isa: Isa) -> None:
    logits = np.full((2, 37), value, np.float32)
    tokens, _ = run(neutral(logits, temperature=[0, 1], top_k=[0, 5], top_p=[1, 0.5]), isa)
    assert ((tokens >= 0) & (tokens < 37)).all()


def test_draws_follow_the_distribution() -> None:
    draws, logits = 20000, np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0, 1.5], np.float32)
    rng = np.random.default_rng(7)
    rows = np.tile(logits, (draws, 1))
    inputs = neutral(
        rows,
        temperature=np.full(draws, 0.8),
        top_k=np.full(draws, 6),
        seeds=rng.integers(-(2**31), 2**31, (draws, 2)),
        sample_positions=rng.integers(0, 4096, draws),
    )
    counts = np.bincount(run(inputs, RUNNABLE[0])[0], minlength=7)
    weights = np.exp(logits / 0.8) * (logits > -3)
    expected = draws * weights / weights.sum()
    assert counts[5] == 0
    chi_square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


@on_every_isa
def test_a_row_never_depends_on_its_batch(isa: Isa) -> None:
    rng = np.random.default_rng(11)
    inputs = neutral(
        rng.standard_normal((6, 1000)).astype(np.float32),
        temperature=[0, 0.5, 1, 1, 0, 2],
        top_p=[1, 0.9, 1, 0.5, 1, 0.8],
        seeds=rng.integers(0, 2**31, (6, 2)),
    )
    tokens, logprobs = run(inputs, isa, threads=2)
    for row in range(6):
        alone = run({name: array[row : row + 1] for name, array in inputs.items()}, isa)
        np.testing.assert_array_equal(alone, (tokens[row : row + 1], logprobs[row : row + 1]))


@on_every_isa
@pytest.mark.parametrize(("vocab_size", "k"), [(37, 20), (49152, 20), (5, 5), (1000, 1)])
def test_top_logprobs_is_its_meaning(vocab_size: int, k: int, isa: Isa) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = (rng.standard_normal((5, vocab_size)) * 4).astype(np.float32)
    logits[1] = np.round(logits[1])  # many ties
    logits[2, rng.permutation(vocab_size)[: vocab_size - 3]] = -np.inf
    tokens, logprobs = np.full((5, k), -9, np.int32), np.full((5, k), np.nan, np.float32)
    compiled(TopLogprobsSpec(vocab_size, k), isa)([logits, tokens, logprobs], {"R": 5}, threads=2)
    expected, values = top_logprobs.evaluate(logits.astype(np.float64), k=k)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(logprobs, values, rtol=1e-6, atol=2e-6)
