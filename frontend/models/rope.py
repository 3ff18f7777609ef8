"""Frequencies of rotary embeddings under Hugging Face's scalings (transformers `modeling_rope_utils`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import UnsupportedModelError
from warploom.ir.ops.elementwise import cast, cos, mul, sin
from warploom.ir.ops.shape import broadcast, constant, full
from warploom.ir.types import type_of


@dataclass(frozen=True)
class Rotary:
    """inv_freq [head_dim / 2] in radians per position, and the factor on cosines and sines."""

    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0


def rotary_from_config(config: Mapping[str, Any], head_dim: int) -> Rotary:
    """Read `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (5).

    Raises:
        UnsupportedModelError: unknown scaling, or one that would need to change with the length.
    """
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in SCALINGS:
        raise UnsupportedModelError(f"RoPE scaling {kind!r} is not supported", expected=", ".join(SCALINGS), found=kind)
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    return SCALINGS[kind](plain, float(theta), {**config, **parameters})


def angles(rotary: Rotary, positions: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
    """Cosines and sines [T, head_dim / 2] of positions [T]."""
    tokens, half = type_of(positions).shape[0], len(rotary.inv_freq)
    at = broadcast(cast(positions, dtype="f32"), shape=(tokens, half), dims=(0,))
    frequency = broadcast(constant(value=np.array(rotary.inv_freq, np.float32)), shape=(tokens, half), dims=(1,))
    angle = mul(at, frequency)
    if rotary.attention_factor == 1.0:
        return cos(angle), sin(angle)
    factor = full(shape=(tokens, half), value=rotary.attention_factor, dtype="f32")
    return mul(cos(angle), factor), mul(sin(angle), factor)


def _default(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    return Rotary(tuple(plain))


def _linear(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    return Rotary(tuple(plain / p["factor"]))


def _llama3(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    low, high, original = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
    wavelength = 2 * math.pi / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return Rotary(tuple((1 - smooth) * plain / p["factor"] + smooth * plain))


def _dynamic(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """NTK scaling changes nothing up to `max_position_embeddings`, which is as far as we serve."""
    return Rotary(tuple(plain))


def _yarn(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """Peng et al. 2023: interpolate slow frequencies, keep fast ones, ramp between."""
    half, original = len(plain), p["original_max_position_embeddings"]
    factor = p["factor"] or p["max_position_embeddings"] / original

    def dimension(rotations: float) -> float:
        return 2 * half * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(p.get("beta_fast") or 32), dimension(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / (high - low or 0.001), 0, 1)
    return Rotary(tuple(plain / factor * ramp + plain * (1 - ramp)), _yarn_attention(factor, p))


def _yarn_attention(factor: float, p: Mapping[str, Any]) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return mscale(p["mscale"]) / mscale(p["mscale_all_dim"])
    return mscale(1.0)


def _longrope(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """One set of factors per frequency. Two different sets would switch with the length, which we refuse."""
    if p["short_factor"] != p["long_factor"]:
        raise UnsupportedModelError(
            "RoPE scaling 'longrope' with different short and long factors is not supported",
            expected="equal short_factor and long_factor",
            found="different ones",
        )
    return Rotary(tuple(plain / np.array(p["long_factor"])), float(p.get("attention_factor", 1.0)))


SCALINGS: dict[str, Callable[[np.ndarray, float, Mapping[str, Any]], Rotary]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
