"""Feed-forward blocks."""

from __future__ import annotations

from collections.abc import Callable

import mlir.ir as mlir

from warploom.frontend.models.dense import dense, split, width
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.activation import gelu, gelu_tanh, relu2, silu, swiglu
from warploom.ir.ops.elementwise import mul

Mlp = Callable[[Weights, mlir.Value], mlir.Value]  # x [T, hidden] -> the same

# transformers' names of activation functions (`activations.ACT2FN`).
ACTIVATIONS: dict[str, Callable[[mlir.Value], mlir.Value]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu2": relu2,
}


def gated(size: int, act: str = "silu", *, bias: bool = False) -> Mlp:
    """down(act(gate(x)) * up(x)) (Shazeer 2020)."""

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        gate, up = (dense(weights / name, x, size, bias=bias) for name in ("gate_proj", "up_proj"))
        return dense(weights / "down_proj", gate_with(act, gate, up), width(x), bias=bias)

    return mlp


def gated_together(size: int, act: str = "silu") -> Mlp:
    """`gated` whose gate and up are the halves of `gate_up_proj` (Phi-3, GLM-4)."""

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        gate, up = split(dense(weights / "gate_up_proj", x, 2 * size), (size, size))
        return dense(weights / "down_proj", gate_with(act, gate, up), width(x))

    return mlp


def plain(size: int, act: str, names: tuple[str, str] = ("up_proj", "down_proj"), *, bias: bool = False) -> Mlp:
    """down(act(up(x)))."""

    def mlp(weights: Weights, x: mlir.Value) -> mlir.Value:
        up, down = names
        return dense(weights / down, ACTIVATIONS[act](dense(weights / up, x, size, bias=bias)), width(x), bias=bias)

    return mlp


def gate_with(act: str, gate: mlir.Value, up: mlir.Value) -> mlir.Value:
    """act(gate) * up."""
    result: mlir.Value = swiglu(gate, up) if ACTIVATIONS[act] is silu else mul(ACTIVATIONS[act](gate), up)
    return result
