"""Data of GPU kernel tests that the building machine and the GPU machine make alike: numpy only."""

from __future__ import annotations

import numpy as np

Inputs = dict[str, np.ndarray]


def sample_inputs(seed: int, rows: int, vocab_size: int, plain: bool = False) -> Inputs:
    """Operands of `sample` in order: rows of every kind, or, with `plain`, greedy ones."""
    rng = np.random.default_rng(seed)

    def mixed(neutral: float, low: float, high: float) -> np.ndarray:
        kept = rng.random(rows) < (1.0 if plain else 0.4)
        return np.where(kept, neutral, rng.uniform(low, high, rows)).astype(np.float32)

    def distinct(width: int, used: float) -> np.ndarray:
        ids = np.stack([rng.choice(vocab_size, width, replace=False) for _ in range(rows)])
        return np.where(rng.random(ids.shape) < used, ids, -1).astype(np.int32)

    def banned(neutral: float) -> np.ndarray:
        words = 1 if plain else -(-vocab_size // 32)
        bits = rng.integers(-(2**31), 2**31, (rows, words))
        return np.where(rng.random((rows, 1)) < neutral, 0, bits).astype(np.int32)

    scale = rng.choice([0.3, 1, 6], (rows, 1))
    return {
        "logits": (rng.standard_normal((rows, vocab_size)) * scale).astype(np.float32),
        "temperature": mixed(0, 0.05, 2),
        "top_k": np.where(rng.random(rows) < 0.5, mixed(0, 1, 100), mixed(0, 1, vocab_size + 2)).astype(np.int32),
        "top_p": mixed(1, 0, 1),
        "min_p": mixed(0, 0, 0.5),
        "repetition_penalty": mixed(1, 0.5, 2),
        "presence_penalty": mixed(0, -2, 2),
        "frequency_penalty": mixed(0, -2, 2),
        "seeds": rng.integers(-(2**31), 2**31, (rows, 2)).astype(np.int32),
        "sample_positions": rng.integers(0, 2**31, rows).astype(np.int32),
        "penalty_tokens": distinct(300, 0.0 if plain else 0.8),
        "penalty_counts": rng.integers(0, 4, (rows, 300)).astype(np.int32),
        "bias_tokens": distinct(3, 0.0 if plain else 0.5),
        "bias_values": rng.choice([-np.inf, 5.0, -2.5], (rows, 3)).astype(np.float32),
        "banned_bits": banned(1.0 if plain else 0.7),
    }
