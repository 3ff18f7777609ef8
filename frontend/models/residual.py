"""How a layer adds attention and MLP to the residual stream; each function makes a layer of its parts."""

from __future__ import annotations

from collections.abc import Callable

import mlir.ir as mlir

from warploom.frontend.models.attention import Mixer, Place
from warploom.frontend.models.dense import scaled
from warploom.frontend.models.mlp import Mlp
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.weights import Weights
from warploom.ir.function import scope
from warploom.ir.ops.elementwise import add

Layer = Callable[[Weights, mlir.Value, Place], tuple[mlir.Value, mlir.Value]]  # x [T, hidden] -> the same, and kv
ATTENTION, MLP = "self_attn", "mlp"
INPUT, POST_ATTENTION = "input_layernorm", "post_attention_layernorm"


def pre_norm(
    norm: Norm,
    mixer: Mixer,
    *mlps: Mlp,
    multiplier: float = 1.0,
    names: tuple[str, str, str, str] = (INPUT, ATTENTION, POST_ATTENTION, MLP),
) -> Layer:
    """x + attention(norm(x)), then x + mlp(norm(x)), of several the sum; what is added is multiplied (Granite)."""
    before, attention, after, feed_forward = names

    def layer(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        with scope((weights / attention).path):
            mixed, kv = mixer(weights / attention, norm(weights / before, x), place)
            x = add(x, scaled(mixed, multiplier))
        with scope((weights / feed_forward).path):
            normed = norm(weights / after, x)
            for mlp in mlps:  # one after another, which products can take along
                x = add(x, scaled(mlp(weights / feed_forward, normed), multiplier))
            return x, kv

    return layer


def post_norm(norm: Norm, mixer: Mixer, mlp: Mlp) -> Layer:
    """x + norm(attention(x)), then x + norm(mlp(x)) (OLMo 2)."""

    def layer(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        with scope((weights / ATTENTION).path):
            mixed, kv = mixer(weights / ATTENTION, x, place)
            x = add(x, norm(weights / POST_ATTENTION, mixed))
        with scope((weights / MLP).path):
            return add(x, norm(weights / "post_feedforward_layernorm", mlp(weights / MLP, x))), kv

    return layer


def sandwich(norm: Norm, mixer: Mixer, mlp: Mlp, names: tuple[str, str, str, str]) -> Layer:
    """x + norm(attention(norm(x))), then the same of the MLP; `names` of the norms in order (Gemma 2, GLM-4)."""
    before_attention, after_attention, before_mlp, after_mlp = names

    def layer(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        with scope((weights / ATTENTION).path):
            mixed, kv = mixer(weights / ATTENTION, norm(weights / before_attention, x), place)
            x = add(x, norm(weights / after_attention, mixed))
        with scope((weights / MLP).path):
            fed = mlp(weights / MLP, norm(weights / before_mlp, x))
            return add(x, norm(weights / after_mlp, fed)), kv

    return layer


def parallel(
    norm: Norm, mixer: Mixer, mlp: Mlp, *, norms: tuple[str, str] = (INPUT, INPUT), attention: str = ATTENTION
) -> Layer:
    """x + attention(norm(x)) + mlp(norm(x)), under one norm or two (Wang and Komatsuzaki 2021)."""

    def layer(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        with scope((weights / attention).path):
            normed = norm(weights / norms[0], x)
            mixed, kv = mixer(weights / attention, normed, place)
        with scope((weights / MLP).path):
            other = normed if norms[0] == norms[1] else norm(weights / norms[1], x)
            return add(add(x, mixed), mlp(weights / MLP, other)), kv

    return layer
