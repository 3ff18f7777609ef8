"""Rows to sample from, and what the tokens that kernels choose of them are held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from warploom.ir.ops.sample import sample

Inputs = dict[str, np.ndarray]


def neutral(logits: np.ndarray, **changes: Any) -> Inputs:
    """The inputs of `sample` for greedy rows, with changes."""
    rows = len(logits)

    def full(value: float, dtype: type = np.float32) -> np.ndarray:
        return np.full(rows, value, dtype)

    inputs = {
        "logits": logits,
        "temperature": full(0),
        "top_k": full(0, np.int32),
        "top_p": full(1),
        "min_p": full(0),
        "repetition_penalty": full(1),
        "presence_penalty": full(0),
        "frequency_penalty": full(0),
        "seeds": np.zeros((rows, 2), np.int32),
        "sample_positions": full(0, np.int32),
        "penalty_tokens": np.full((rows, 1), -1, np.int32),
        "penalty_counts": np.zeros((rows, 1), np.int32),
        "bias_tokens": np.full((rows, 1), -1, np.int32),
        "bias_values": np.zeros((rows, 1), np.float32),
        "banned_bits": np.zeros((rows, 1), np.int32),
    }
    return {name: np.asarray(changes.get(name, value), value.dtype) for name, value in inputs.items()}


def dims_of(inputs: Inputs) -> dict[str, int]:
    """The dims of the kernels of `sample`."""
    widths = {"H": "penalty_tokens", "B": "bias_tokens", "M": "banned_bits"}
    return {"R": len(inputs["logits"])} | {dim: inputs[name].shape[1] for dim, name in widths.items()}


def distinct(rng: np.random.Generator, rows: int, width: int, vocab_size: int) -> np.ndarray:
    """Per row up to `width` distinct tokens, padded with -1."""
    ids = np.stack([rng.permutation(max(vocab_size, width))[:width] for _ in range(rows)])
    return np.where((ids < vocab_size) & (rng.random(ids.shape) < 0.8), ids, -1).astype(np.int32)


def check_tokens(inputs: Inputs, tokens: np.ndarray, logprobs: np.ndarray, atol: float) -> None:
    """Tokens equal in f32; where not, the choice must be a tie: numpy in f64 disagrees with numpy in f32 as well."""
    expected, _ = sample.evaluate(*inputs.values())
    for row in np.flatnonzero(tokens != expected):
        wide = [a[row : row + 1] if a.dtype != np.float32 else a[row : row + 1].astype(float) for a in inputs.values()]
        assert sample.evaluate(*wide)[0][0] != expected[row], f"row {row}: {tokens[row]}, not {expected[row]}"
    x = inputs["logits"].astype(np.float64)
    log_sum = np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1)
    np.testing.assert_allclose(logprobs, x[np.arange(len(x)), tokens] - log_sum, rtol=1e-6, atol=atol)
