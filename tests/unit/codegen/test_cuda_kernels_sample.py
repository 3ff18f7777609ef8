"""The CUDA sampling kernels in Triton's interpreter against their numpy meaning: token for token, but for ties.

The interpreter runs one block after another, so blocks that wait for each other are tested on a GPU (tests/gpu).
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.codegen.sampling_rows import Inputs, check_tokens, dims_of, distinct, neutral
from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.kernels.sample import SampleSpec
from warploom.codegen.cuda.kernels.top_logprobs import TopLogprobsSpec
from warploom.ir.ops.random import random_bits
from warploom.ir.ops.sample import top_logprobs


def run(inputs: Inputs, max_chunk: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    rows, vocab_size = inputs["logits"].shape
    spec = SampleSpec(vocab_size, pdl=False, max_chunk=max_chunk)
    dims = dims_of(inputs)
    temps = [np.zeros(temp.type.resolve(dims), temp.type.dtype.numpy) for temp in spec.temps]
    tokens, logprobs = np.full(rows, -9, np.int32), np.full(rows, np.nan, np.float32)
    arrays = [np.ascontiguousarray(array) for array in inputs.values()]
    run_kernel(spec, [*arrays, *temps, tokens, logprobs], dims)
    assert not temps[-1].any(), "counters are left zero"
    return tokens, logprobs


def check(inputs: Inputs, max_chunk: int = 4096) -> None:
    check_tokens(inputs, *run(inputs, max_chunk), atol=3e-6)


def banned_bits(rng: np.random.Generator, rows: int, vocab_size: int) -> np.ndarray:
    """None, or many tokens banned in some rows, of the whole vocabulary or of its beginning."""
    words = int(rng.choice([1, -(-vocab_size // 32)]))
    bits = rng.integers(-(2**31), 2**31, (rows, words)) | rng.integers(-(2**31), 2**31, (rows, words))
    return np.where(rng.random((rows, 1)) < 0.5, 0, bits & ~1).astype(np.int32)  # token 0 is left


def random_inputs(rng: np.random.Generator, rows: int, vocab_size: int, truncated: bool) -> Inputs:
    def mixed(neutral_value: float, low: float, high: float, share: float = 0.4) -> np.ndarray:
        return np.where(rng.random(rows) < share, neutral_value, rng.uniform(low, high, rows)).astype(np.float32)

    history, off = int(rng.integers(0, 200)), 0.4 if truncated else 1.0
    return neutral(
        (rng.standard_normal((rows, vocab_size)) * rng.choice([0.1, 1, 8])).astype(np.float32),
        temperature=mixed(0, 0.05, 2),
        top_k=mixed(0, 1, vocab_size + 2, off),
        top_p=mixed(1, 0, 1, off),
        min_p=mixed(0, 0, 0.5, off),
        repetition_penalty=mixed(1, 0.5, 2),
        presence_penalty=mixed(0, -2, 2),
        frequency_penalty=mixed(0, -2, 2),
        seeds=rng.integers(-(2**31), 2**31, (rows, 2)),
        sample_positions=rng.integers(0, 2**31, rows),
        penalty_tokens=distinct(rng, rows, history, vocab_size),
        penalty_counts=rng.integers(0, 4, (rows, history)),
        bias_tokens=distinct(rng, rows, 3, vocab_size) if rng.random() < 0.5 else np.full((rows, 3), -1),
        bias_values=rng.choice([-np.inf, 5.0, -2.5], (rows, 3)).astype(np.float32),
        banned_bits=banned_bits(rng, rows, vocab_size),
    )


@pytest.mark.parametrize("vocab_size", [5, 16, 1000, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_any_row_of_one_chunk_is_its_meaning(seed: int, vocab_size: int) -> None:
    check(random_inputs(np.random.default_rng(seed), 6, vocab_size, truncated=True))


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_many_chunks_are_their_meaning(seed: int) -> None:
    check(random_inputs(np.random.default_rng(seed), 6, 3000, truncated=False), max_chunk=256)


def test_ties_are_kept_together_and_the_first_wins() -> None:
    logits = np.array([[1, 3, 3, 3, 0], [0, -0.0, 0, -0.0, 0]], np.float32)
    assert run(neutral(logits))[0].tolist() == [1, 0]
    repeated = np.tile(logits, (10, 1))
    changes = {"temperature": np.ones(20), "top_k": np.tile([2, 1], 10), "sample_positions": np.arange(20) // 2}
    drawn = run(neutral(repeated, **changes))[0].reshape(10, 2)
    assert set(drawn[:, 0].tolist()) == {1, 2, 3}
    assert len(set(drawn[:, 1].tolist())) > 2


def test_ties_across_chunks_go_to_the_first() -> None:
    logits = np.zeros((1, 700), np.float32)
    logits[0, [300, 301, 699]] = 2
    assert run(neutral(logits), max_chunk=128)[0].tolist() == [300]


def test_a_chunk_of_minus_infinity_adds_nothing() -> None:
    logits = np.full((2, 700), -np.inf, np.float32)
    logits[:, 130] = 1
    tokens, logprobs = run(neutral(logits, temperature=[0, 1]), max_chunk=128)
    assert tokens.tolist() == [130, 130]
    np.testing.assert_allclose(logprobs, 0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_tokens_are_never_drawn(temperature: float) -> None:
    rng = np.random.default_rng(5)
    banned = {"bias_tokens": np.tile(np.arange(19), (16, 1)), "bias_values": np.full((16, 19), -np.inf)}
    logits = rng.standard_normal((16, 20)).astype(np.float32)
    tokens, _ = run(neutral(logits, temperature=np.full(16, temperature), **banned))
    assert (tokens == 19).all()


def test_noise_is_finite_where_the_uniform_rounds_to_one() -> None:
    """Seed 0, position 25095, token 322: all 24 bits are set, and (2^24 - 1 + 0.5) * 2^-24 is 1 in f32."""
    bits = random_bits.evaluate(np.zeros((1, 2), np.int32), np.array([25095], np.int32), n=323)
    assert np.asarray(bits)[0, 322].view(np.uint32) >> 8 == 2**24 - 1
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 322] = -20
    tokens, _ = run(neutral(logits, temperature=[1], sample_positions=[25095]))
    assert tokens[0] != 322


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_give_a_valid_token(value: float) -> None:
    logits = np.full((2, 37), value, np.float32)
    tokens, _ = run(neutral(logits, temperature=[0, 1], top_k=[0, 5], top_p=[1, 0.5]))
    assert ((tokens >= 0) & (tokens < 37)).all()


@pytest.mark.parametrize(("vocab_size", "k"), [(37, 20), (3000, 20), (5, 5), (1000, 1)])
def test_top_logprobs_is_its_meaning(vocab_size: int, k: int) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = (rng.standard_normal((3, vocab_size)) * 4).astype(np.float32)
    logits[1] = np.round(logits[1])  # many ties
    logits[2, 1:] = -np.inf
    spec = TopLogprobsSpec(vocab_size, k, pdl=False, max_chunk=512)
    temps = [np.zeros(temp.type.resolve({"R": 3}), temp.type.dtype.numpy) for temp in spec.temps]
    tokens, logprobs = np.full((3, k), -9, np.int32), np.full((3, k), np.nan, np.float32)
    run_kernel(spec, [logits, *temps, tokens, logprobs], {"R": 3})
    expected_tokens, expected = top_logprobs.evaluate(logits, k=k)
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=1e-5)
    assert not temps[-1].any(), "counters are left zero"
