"""Activation composites."""

from __future__ import annotations

import math
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, activation
from warploom.ir.ops.elementwise import Binary, Unary, add, erf, logistic, maximum, minimum, mul, tanh
from warploom.ir.ops.shape import full
from warploom.ir.types import TensorType, type_of


class Silu(Unary):
    """x * logistic(x) (Elfwing et al. 2017)."""

    name = "silu"
    operands = (activation("x"),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """In the dtype of x."""
        return x / (1 + np.exp(-x))

    def decompose(self, x: mlir.Value) -> mlir.Value:
        """One logistic, one product."""
        return mul(x, logistic(x))


class Swiglu(Binary):
    """silu(gate) * up (Shazeer 2020)."""

    name = "swiglu"
    operands = (activation("gate"), activation("up"))

    def evaluate(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        """In the dtype of the gate."""
        return gate / (1 + np.exp(-gate)) * up

    def decompose(self, gate: mlir.Value, up: mlir.Value) -> mlir.Value:
        """silu, then a product."""
        return mul(silu(gate), up)


class ClampedSwiglu(Binary):
    """gate * logistic(alpha * gate) * (up + 1), gate at most `limit` and up within it (gpt-oss, arXiv 2508.10925)."""

    name = "clamped_swiglu"
    operands = (activation("gate"), activation("up"))
    attributes = (Attribute("alpha", Kind.FLOAT), Attribute("limit", Kind.FLOAT))

    def infer(self, gate: TensorType, up: TensorType, *, alpha: float, limit: float) -> TensorType:  # type: ignore[override]
        """The type of both; the limit is positive."""
        if limit <= 0:
            raise IRError("a limit must be positive", found=str(limit))
        return super().infer(gate, up)

    def evaluate(self, gate: np.ndarray, up: np.ndarray, *, alpha: float, limit: float) -> np.ndarray:
        """In the dtype of the gate."""
        gate, up = np.minimum(gate, gate.dtype.type(limit)), np.clip(up, -limit, limit)
        return gate / (1 + np.exp(gate.dtype.type(-alpha) * gate)) * (up + 1)

    def decompose(self, gate: mlir.Value, up: mlir.Value, *, alpha: float, limit: float) -> mlir.Value:
        """Bounds, a logistic, products."""
        gate = minimum(gate, _constant(gate, limit))
        up = maximum(minimum(up, _constant(up, limit)), _constant(up, -limit))
        return mul(mul(gate, logistic(_times(gate, alpha))), add(up, _constant(up, 1.0)))

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Limits within the range of values and beyond."""
        values, _ = super().generate(choose)
        return values, {"alpha": choose.choice([1.0, 1.702]), "limit": choose.choice([1.5, 30.0])}


class Gelu(Unary):
    """x / 2 * (1 + erf(x / sqrt(2))) (Hendrycks and Gimpel 2016)."""

    name = "gelu"
    operands = (activation("x"),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """In the dtype of x."""
        return 0.5 * x * (1 + erf.evaluate(x * x.dtype.type(math.sqrt(0.5))))

    def decompose(self, x: mlir.Value) -> mlir.Value:
        """An erf between products."""
        bell = add(erf(_times(x, math.sqrt(0.5))), _constant(x, 1.0))
        return mul(_times(x, 0.5), bell)


class GeluTanh(Unary):
    """x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), as GPT-2 and Gemma approximate GELU."""

    name = "gelu_tanh"
    operands = (activation("x"),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """In the dtype of x."""
        inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
        return 0.5 * x * (1 + np.tanh(inner))

    def decompose(self, x: mlir.Value) -> mlir.Value:
        """A tanh between products."""
        inner = _times(add(x, mul(_times(x, 0.044715), mul(x, x))), math.sqrt(2 / math.pi))
        return mul(_times(x, 0.5), add(tanh(inner), _constant(x, 1.0)))


class Relu2(Unary):
    """max(x, 0)^2 (So et al. 2021)."""

    name = "relu2"
    operands = (activation("x"),)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """In the dtype of x."""
        return np.square(np.maximum(x, 0))

    def decompose(self, x: mlir.Value) -> mlir.Value:
        """A maximum, squared."""
        positive = maximum(x, _constant(x, 0.0))
        return mul(positive, positive)


class Softcap(Unary):
    """cap * tanh(x / cap): about x where small, never beyond cap (Gemma 2, arXiv 2408.00118)."""

    name = "softcap"
    operands = (activation("x"),)
    attributes = (Attribute("cap", Kind.FLOAT),)

    def infer(self, x: TensorType, *, cap: float) -> TensorType:  # type: ignore[override]
        """The type of x; cap is positive."""
        if cap <= 0:
            raise IRError("a cap must be positive", found=str(cap))
        return x

    def evaluate(self, x: np.ndarray, *, cap: float) -> np.ndarray:
        """In the dtype of x."""
        return x.dtype.type(cap) * np.tanh(x * x.dtype.type(1 / cap))

    def decompose(self, x: mlir.Value, *, cap: float) -> mlir.Value:
        """A tanh between two products."""
        return _times(tanh(_times(x, 1 / cap)), cap)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Caps within the range of values and beyond."""
        values, _ = super().generate(choose)
        return values, {"cap": choose.choice([1.5, 30.0])}


def _constant(like: mlir.Value, value: float) -> mlir.Value:
    return full(shape=type_of(like).shape, value=value, dtype="f32")


def _times(x: mlir.Value, factor: float) -> Any:
    return mul(x, _constant(x, factor))


silu, swiglu, clamped_swiglu = Silu(), Swiglu(), ClampedSwiglu()
gelu, gelu_tanh, relu2, softcap = Gelu(), GeluTanh(), Relu2(), Softcap()
