"""Frequencies of rotary embeddings under Hugging Face's scalings (transformers `modeling_rope_utils`).

Two scalings change with the length of a sequence. Keys in pages are rotated once and shared by sequences of any
length, so here the compiled context decides, once for all (as in vLLM and llama.cpp):

- `longrope` has short factors for contexts up to `original_max_position_embeddings` and long ones beyond. An artifact
  compiled for a longer context uses the long ones from the first token. transformers switches with the length of each
  prompt: it agrees wherever the prompt is on the same side as the compiled context.
- `dynamic` changes nothing up to `max_position_embeddings`, which is as far as we serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import UnsupportedModelError
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.inputs import StepInputs
from warploom.ir.function import scope
from warploom.ir.ops.elementwise import cast, cos, mul, sin
from warploom.ir.ops.shape import broadcast, constant, full
from warploom.ir.types import type_of


@dataclass(frozen=True)
class Rotary:
    """A rotation of the first `dim` elements of a head.

    Attributes:
        inv_freq: [dim / 2], radians per position.
        attention_factor: on cosines and sines.
        interleaved: pairs are neighbours (2i, 2i + 1) instead of (i, i + dim / 2).
        switch: a context longer than this uses `long_inv_freq`; 0: there are none.
        long_inv_freq: as inv_freq.
    """

    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    interleaved: bool = False
    switch: int = 0
    long_inv_freq: tuple[float, ...] = ()

    @property
    def dim(self) -> int:
        """Elements of a head that are rotated."""
        return 2 * len(self.inv_freq)


def read_rotary(
    read: ConfigReader,
    head_dim: int,
    *,
    layer_type: str = "",
    theta: float = 10000.0,
    partial: float | None = None,
    interleaved: bool = False,
) -> Rotary:
    """Read `rope_theta`, `rope_scaling` and `partial_rotary_factor` (transformers 4) or `rope_parameters` (5).

    Args:
        read: of the config.
        head_dim: elements of a head.
        layer_type: which of several sets of parameters, where a config has one per type of layer.
        theta: the family's default.
        partial: the family's default of the part of a head that is rotated; None: it rotates whole heads.
        interleaved: of the family.

    Raises:
        UnsupportedModelError: unknown scaling or parameter, or one that is missing or out of range.
    """
    config = {name: read.get(name) for name in ("rope_theta", "partial_rotary_factor", LONGEST, ORIGINAL)}
    field, stated = read_parameters(read)
    of_layers = stated.get(layer_type)
    common = {name: config[name] for name in ("rope_theta", "partial_rotary_factor")}
    parameters = _present(common) | _present(of_layers or stated)
    if config[ORIGINAL] is not None and not of_layers:  # where transformers looks first
        parameters[ORIGINAL] = config[ORIGINAL]
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in SCALINGS:
        raise read.refusal(field, f"rope_type {', '.join(SCALINGS)}")
    scaling = SCALINGS[kind]
    if ORIGINAL not in scaling.names:
        parameters.pop(ORIGINAL, None)
    if unknown := sorted(parameters.keys() - scaling.names - COMMON):
        names = ", ".join(sorted(scaling.names | COMMON))
        raise read.refusal(field, f"for {kind}: {names}; not {', '.join(unknown)}")
    base, part = parameters.get("rope_theta", theta), parameters.get("partial_rotary_factor", partial or 1.0)
    for name, value in {**dict.fromkeys(scaling.needed), "rope_theta": theta, **parameters}.items():
        if not _fits(name, value):
            raise read.refusal(field, f"for {kind}: {name} above 0, not {value!r}")
    if part > 1 or (partial is None and part != 1):
        raise read.refusal(
            "partial_rotary_factor", "1: heads of this family are rotated whole" if part < 1 else "at most 1"
        )
    dim = int(head_dim * part)
    plain = 1.0 / base ** (np.arange(0, dim, 2) / dim)
    scaled = scaling.rotate(plain, base, {LONGEST: config[LONGEST], ORIGINAL: config[LONGEST], **parameters})
    return Rotary(scaled.inv_freq, scaled.attention_factor, interleaved, scaled.switch, scaled.long_inv_freq)


def read_parameters(read: ConfigReader) -> tuple[str, Mapping[str, Any]]:
    """Which field says how to rotate, `rope_scaling` (transformers 4) or `rope_parameters` (5), and what it says.

    Raises:
        UnsupportedModelError: it has both, and they differ.
    """
    found = {name: read.get(name) or {} for name in ("rope_scaling", "rope_parameters")}
    if wrong := [name for name, value in found.items() if not isinstance(value, Mapping)]:
        raise read.refusal(wrong[0], 'an object, such as {"rope_type": "default"}')
    old, new = found.values()
    if old and new and old != new:
        raise read.refusal("rope_scaling", "the same as rope_parameters, or one of them alone")
    return ("rope_parameters", new) if new else ("rope_scaling", old)


def _present(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _fits(name: str, value: Any) -> bool:
    if name in NO_NUMBERS:
        return value is not None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and (value > 0 or name in MAY_BE_ZERO)


def score_factor(read: ConfigReader) -> float:
    """What scores are multiplied with under yarn in DeepSeek's models: the square of mscale for `mscale_all_dim`."""
    _, p = read_parameters(read)
    if p.get("rope_type", p.get("type", "default")) == "default" or not p.get("mscale_all_dim"):
        return 1.0
    return _mscale(p["factor"], p["mscale_all_dim"]) ** 2


def angles(rotary: Rotary, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
    """Cosines and sines [T, dim / 2] of the step's positions; equal ones of other layers are merged by a pass."""
    long = rotary.switch and step.max_context > rotary.switch
    frequencies = rotary.long_inv_freq if long else rotary.inv_freq
    with scope("model.rotary_emb"):
        tokens, half = type_of(step.positions).shape[0], len(frequencies)
        at = broadcast(cast(step.positions, dtype="f32"), shape=(tokens, half), dims=(0,))
        frequency = broadcast(constant(value=np.array(frequencies, np.float32)), shape=(tokens, half), dims=(1,))
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
    low, high, original = p["low_freq_factor"], p["high_freq_factor"], p[ORIGINAL]
    wavelength = 2 * math.pi / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return Rotary(tuple((1 - smooth) * plain / p["factor"] + smooth * plain))


def _dynamic(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """NTK scaling changes nothing up to `max_position_embeddings`; see the module."""
    return Rotary(tuple(plain))


def _yarn(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """Peng et al. 2023: interpolate slow frequencies, keep fast ones, ramp between."""
    half, original = len(plain), p[ORIGINAL]
    factor = p.get("factor") or p[LONGEST] / original

    def dimension(rotations: float) -> float:
        return 2 * half * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(p.get("beta_fast") or 32), dimension(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / (high - low or 0.001), 0, 1)
    return Rotary(tuple(plain / factor * ramp + plain * (1 - ramp)), _yarn_attention(factor, p))


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _yarn_attention(factor: float, p: Mapping[str, Any]) -> float:
    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return _mscale(factor, p["mscale"]) / _mscale(factor, p["mscale_all_dim"])
    return _mscale(factor, 1.0)


def _longrope(plain: np.ndarray, theta: float, p: Mapping[str, Any]) -> Rotary:
    """Ding et al. 2024: a factor per frequency, in two sets; see the module."""
    original = p[ORIGINAL]
    if original < 2:  # whose logarithm is divided by
        raise UnsupportedModelError(
            f"RoPE scaling 'longrope' needs a longer {ORIGINAL}", expected="2 at least", found=str(original)
        )
    short, long = (np.array(p[name]) for name in ("short_factor", "long_factor"))
    if len(short) != len(plain) or len(long) != len(plain):
        raise UnsupportedModelError(
            "RoPE scaling 'longrope' needs one factor per frequency",
            expected=f"{len(plain)} short and long factors",
            found=f"{len(short)} and {len(long)}",
        )
    attention = p.get("attention_factor")
    if attention is None:
        factor = p.get("factor") or p[LONGEST] / original
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Rotary(tuple(plain / short), float(attention), switch=original, long_inv_freq=tuple(plain / long))


@dataclass(frozen=True)
class Scaling:
    """A `rope_type`.

    Attributes:
        rotate: frequencies without scaling, base, parameters -> a rotation.
        needed: parameters that must be there.
        optional: parameters that may be there.
    """

    rotate: Callable[[np.ndarray, float, Mapping[str, Any]], Rotary]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.needed + self.optional)


ORIGINAL, LONGEST = "original_max_position_embeddings", "max_position_embeddings"
COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
NO_NUMBERS = frozenset({"rope_type", "type", "truncate", "short_factor", "long_factor"})
MAY_BE_ZERO = frozenset({"mscale", "mscale_all_dim"})  # which is as if they were absent
LONGROPE = Scaling(_longrope, ("short_factor", "long_factor", ORIGINAL), ("factor", "attention_factor"))
SCALINGS = {
    "default": Scaling(_default),
    "linear": Scaling(_linear, ("factor",)),
    "dynamic": Scaling(_dynamic, ("factor",), (ORIGINAL,)),
    "llama3": Scaling(_llama3, ("factor", "low_freq_factor", "high_freq_factor"), (ORIGINAL,)),
    "yarn": Scaling(
        _yarn,
        optional=(
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            ORIGINAL,
        ),
    ),
    "longrope": LONGROPE,
    "su": LONGROPE,  # its first name
}
