"""Row-wise composites over the last axis."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand, activation
from warploom.ir.ops.elementwise import add, cast, div, exp, mul, rsqrt, sub
from warploom.ir.ops.reduce import reduce_max, reduce_sum
from warploom.ir.ops.shape import broadcast, full
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

F32 = frozenset({DType.F32})
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class RmsNorm(Op):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019; HF LlamaRMSNorm)."""

    name = "rms_norm"
    operands = (activation("x"), Operand("weight", FLOATS))
    attributes = (Attribute("eps", Kind.FLOAT),)

    def infer(self, x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
        """The type of x; weight [x.shape[-1]]."""
        if x.rank == 0 or not weight.matches(tensor((x.shape[-1],), weight.dtype)):
            raise IRError("weight does not fit the last axis", expected=str(x), found=str(weight))
        return x

    def evaluate(self, x: np.ndarray, weight: np.ndarray, *, eps: float) -> np.ndarray:
        """In the dtype of x."""
        mean = np.mean(x * x, -1, keepdims=True, dtype=x.dtype)
        return x * (1 / np.sqrt(mean + x.dtype.type(eps))) * weight

    def decompose(self, x: mlir.Value, weight: mlir.Value, *, eps: float) -> mlir.Value:
        """Mean of squares, rsqrt, two products."""
        return mul(mul(x, along_rows(inverse_rms(x, eps), x)), along_columns(cast(weight, dtype="f32"), x))

    def generate(self, choose: Chooser) -> Generated:
        """A value and a fresh weight."""
        x = choose.like(tensor((choose.symbol(), choose.choice([3, 16, 40])), choose.choice([DType.F32, DType.BF16])))
        return [x, choose.input(tensor((type_of(x).shape[-1],)), 0.5, 1.5)], {"eps": 1e-5}


class LayerNorm(Op):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al. 2016).

    The weight repeats over the leading axes of x: one row for all ([N]), or one for each head ([H, N]).
    """

    name = "layer_norm"
    operands = (activation("x"), Operand("weight", FLOATS), Operand("bias", FLOATS, optional=True))
    attributes = (Attribute("eps", Kind.FLOAT),)

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None = None, *, eps: float) -> TensorType:
        """The type of x; weight and bias are the last axes of x."""
        for given in (weight, bias or weight):
            if not 0 < given.rank <= x.rank or not given.matches(tensor(x.shape[-given.rank :], given.dtype)):
                raise IRError("weight or bias does not fit the last axes", expected=str(x), found=str(given))
        return x

    def evaluate(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, eps: float) -> np.ndarray:
        """In the dtype of x."""
        centered = x - np.mean(x, -1, keepdims=True, dtype=x.dtype)
        variance = np.mean(centered * centered, -1, keepdims=True, dtype=x.dtype)
        scaled = centered * (1 / np.sqrt(variance + x.dtype.type(eps))) * weight
        return scaled if bias is None else scaled + bias

    def decompose(self, x: mlir.Value, weight: mlir.Value, bias: mlir.Value | None = None, *, eps: float) -> mlir.Value:
        """Center, then as RMSNorm, then the bias."""
        rows, size = type_of(x).shape[:-1], type_of(x).shape[-1]
        assert isinstance(size, int)

        def mean(values: mlir.Value) -> mlir.Value:
            return mul(reduce_sum(values, axis=len(rows)), full(shape=rows, value=1 / size, dtype="f32"))

        centered = sub(x, along_rows(mean(x), x))
        scale = rsqrt(add(mean(mul(centered, centered)), full(shape=rows, value=eps, dtype="f32")))
        scaled = mul(mul(centered, along_rows(scale, x)), along_columns(cast(weight, dtype="f32"), x))
        return scaled if bias is None else add(scaled, along_columns(cast(bias, dtype="f32"), x))

    def generate(self, choose: Chooser) -> Generated:
        """A value and a fresh weight, for all heads or for each, with and without a bias."""
        heads, size = choose.integer(1, 3), choose.choice([3, 16, 40])
        x = choose.like(tensor((choose.symbol(), heads, size), choose.choice([DType.F32, DType.BF16])))
        shape = choose.choice([(size,), (heads, size)])
        parameters = [choose.input(tensor(shape), 0.5, 1.5) for _ in range(choose.integer(1, 2))]
        return [x, *parameters], {"eps": 1e-3}


class Softmax(Op):
    """exp(x - max) / sum over the last axis."""

    name = "softmax"
    operands = (Operand("x", F32),)

    def infer(self, x: TensorType) -> TensorType:
        """The type of x."""
        if x.rank == 0:
            raise IRError("a scalar has no last axis", found=str(x))
        return x

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """In the dtype of x."""
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def decompose(self, x: mlir.Value) -> mlir.Value:
        """Shift by the maximum, exponentiate, divide by the sum."""
        axis = type_of(x).rank - 1
        e = exp(sub(x, along_rows(reduce_max(x, axis=axis), x)))
        return div(e, along_rows(reduce_sum(e, axis=axis), x))

    def generate(self, choose: Chooser) -> Generated:
        """Any value."""
        return [choose.value(F32, min_rank=1)], {}


def inverse_rms(x: mlir.Value, eps: float) -> mlir.Value:
    """1 / sqrt(mean(x^2) + eps) of each row of x, f32 [.., N]: f32 [..]."""
    rows, size = type_of(x).shape[:-1], type_of(x).shape[-1]
    assert isinstance(size, int)
    mean = mul(reduce_sum(mul(x, x), axis=len(rows)), full(shape=rows, value=1 / size, dtype="f32"))
    return rsqrt(add(mean, full(shape=rows, value=eps, dtype="f32")))


def along_rows(per_row: mlir.Value, like: mlir.Value) -> mlir.Value:
    """Repeat one number per row [..] over the last axis of `like` [.., N]."""
    dims = type_of(like).shape
    return broadcast(per_row, shape=dims, dims=tuple(range(len(dims) - 1)))


def along_columns(row: mlir.Value, like: mlir.Value) -> mlir.Value:
    """Repeat a row [N], or rows [H, N], over the leading axes of `like` [.., H, N]."""
    dims = type_of(like).shape
    return broadcast(row, shape=dims, dims=tuple(range(len(dims) - type_of(row).rank, len(dims))))


rms_norm, layer_norm, softmax = RmsNorm(), LayerNorm(), Softmax()
