"""The search for scales of activation-aware quantization (Lin et al. 2023, AWQ).

Scales are a power of the mean magnitude of each channel of x: s = m^a, normalized. The exponent is the one of a grid
whose rounding errors move the outputs on the calibration text least; a = 0, no scaling, is in the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RoundTrip = Callable[[np.ndarray], np.ndarray]
GRID = tuple(i / 8 for i in range(8))
ROWS = 256  # of each weight, evenly spread, that are tried


def best_scales(x: np.ndarray, weights: Sequence[np.ndarray], round_trip: RoundTrip) -> np.ndarray:
    """Scales [k] for one input.

    Args:
        x: rows of activations, f32 [samples, k].
        weights: f32 [n, k] each, of the linears that read x.
        round_trip: what a weight stands for once it is stored.
    """
    magnitude = np.maximum(np.abs(x).mean(0), np.float32(1e-4) * np.abs(x).mean() + np.float32(1e-12))
    candidates = [_normalized(magnitude ** np.float32(exponent)) for exponent in GRID]
    moments = x.T @ x
    some = [weight[:: max(1, len(weight) // ROWS)] for weight in weights]
    return min(candidates, key=lambda scale: sum(_loss(weight, scale, moments, round_trip) for weight in some))


def _normalized(scale: np.ndarray) -> np.ndarray:
    return scale / np.sqrt(scale.max() * scale.min())


def _loss(weight: np.ndarray, scale: np.ndarray, moments: np.ndarray, round_trip: RoundTrip) -> float:
    """Sum of the squared errors of the outputs on the calibration text."""
    error = round_trip(weight * scale) / scale - weight
    return float(np.sum((error @ moments) * error))
