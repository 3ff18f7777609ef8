"""Norms as functions of a module's weights and a value."""

from __future__ import annotations

from collections.abc import Callable

import mlir.ir as mlir

from warploom.frontend.models.dense import width
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.elementwise import add, as_dtype
from warploom.ir.ops.norm import layer_norm, rms_norm
from warploom.ir.ops.shape import full
from warploom.ir.types import DType, type_of

Norm = Callable[[Weights, mlir.Value], mlir.Value]


def rms(eps: float, *, plus_one: bool = False) -> Norm:
    """RMSNorm by `weight`, or by 1 + weight (Gemma)."""

    def norm(weights: Weights, x: mlir.Value) -> mlir.Value:
        result: mlir.Value = rms_norm(x, _gain(weights, x, plus_one), eps=eps)
        return result

    return norm


def layer(eps: float, *, bias: bool = True, plus_one: bool = False) -> Norm:
    """LayerNorm by `weight`, or by 1 + weight (Nemotron), and `bias` if there is one."""

    def norm(weights: Weights, x: mlir.Value) -> mlir.Value:
        shift = (weights("bias", (width(x),)),) if bias else ()
        result: mlir.Value = layer_norm(x, _gain(weights, x, plus_one), *shift, eps=eps)
        return result

    return norm


def _gain(weights: Weights, x: mlir.Value, plus_one: bool) -> mlir.Value:
    weight = weights("weight", (width(x),))
    if not plus_one:
        return weight
    one = full(shape=type_of(weight).shape, value=1.0, dtype="f32")
    result: mlir.Value = add(as_dtype(weight, DType.F32), one)
    return result
