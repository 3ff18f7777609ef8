"""Activation composites."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.ir.op import activation
from warploom.ir.ops.elementwise import Binary, Unary, logistic, mul


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


silu, swiglu = Silu(), Swiglu()
