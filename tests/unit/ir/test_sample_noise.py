"""The noise of the draw is finite whatever the random bits are."""

from __future__ import annotations

import numpy as np

from warploom.ir.ops.sample import sample

# Threefry gives 24 set bits for this key, position and token; (bits + 0.5) / 2^24 is 1 in f32.
SEED, POSITION, TOKEN = 0, 25095, 322


def test_a_draw_of_all_ones_does_not_win_by_itself() -> None:
    vocab = 400
    logits = np.zeros((1, vocab), np.float32)
    logits[0, TOKEN] = -100.0
    one = np.ones(1, np.float32)
    zero = np.zeros(1, np.float32)
    ints, none = np.zeros(1, np.int32), np.full((1, 1), -1, np.int32)
    seeds, positions = np.full((1, 2), SEED, np.int32), np.array([POSITION], np.int32)
    penalties = (one, zero, zero)
    tokens, logprobs = sample.evaluate(
        logits, one, ints, one, zero, *penalties, seeds, positions, none, none * 0, none, zero[:, None], ints[:, None]
    )
    assert tokens[0] != TOKEN
    assert np.isfinite(logprobs).all()
