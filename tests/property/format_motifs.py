"""Chains for the passes that change formats: sums of bf16 rows, products of numbers on a grid, columns by group.

Where a pass rounds, data are chosen that lose nothing by it, or results are compared as far as the format can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlir.ir as mlir
import numpy as np

from tests.property.motifs import HIDDEN, Builder
from warploom.ir.ops.activation import silu, swiglu
from warploom.ir.ops.columns import place_columns
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.elementwise import add, as_dtype, cast, mul
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import along_columns, along_rows, layer_norm, rms_norm
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.ops.shape import concat, constant, gather, slice_axis
from warploom.ir.types import DType, tensor, type_of


def narrow_stream(choose: Builder) -> Sequence[mlir.Value]:
    """The running sum of a model whose activations are bf16; now and then others read it, or some of its rows."""
    tokens = choose.symbol()
    x = cast(choose.input(tensor((tokens, HIDDEN)), -1, 1), dtype="bf16")
    values = []
    for _ in range(choose.integer(1, 2)):
        gain = choose.parameter(tensor((HIDDEN,)), 0.5, 1.5)
        weight = choose.parameter(tensor((HIDDEN, HIDDEN), DType.BF16), -0.3, 0.3)
        x = add(x, linear(rms_norm(x, gain, eps=1e-2), weight, n=HIDDEN, layout="row"))
        if choose.integer(0, 2) == 0:
            values.append(x)
    if choose.integer(0, 1):
        x = gather(x, choose.input(tensor((choose.symbol(),), DType.I32), 0, 0))
    return [*values, rms_norm(x, choose.parameter(tensor((HIDDEN,)), 0.5, 1.5), eps=1e-2)]


def product_on_a_grid(choose: Builder) -> Sequence[mlir.Value]:
    """A quantized weight and activations that numbers of eight bits with one scale a row hold exactly."""
    dtype = choose.choice([DType.I8, DType.F8])
    steps = np.array([0, 1, -1, 2, -3, 4, 5, -7] if dtype is DType.F8 else [0, 1, -2, 30, 77, -100, 126, -127])
    rows = choose.symbol()
    picked = np.random.default_rng(choose.integer(0, 9)).choice(steps, (choose.size(rows), HIDDEN))
    picked[:, choose.integer(0, HIDDEN - 1)] = steps[-1]  # the largest of every row is what the scale stands for
    x = choose.given(tensor((rows, HIDDEN)), (picked / 64).astype(np.float32))
    weight = choose.parameter(tensor((8, HIDDEN)), -0.3, 0.3)
    q, scale = quantize(weight, dtype=dtype.value, group=0, scale_dtype="f32")
    product = quantized_linear(x, q, scale, n=8, layout="row")
    return [add(product, choose.input(tensor((rows, 8)), -1, 1)) if choose.integer(0, 1) else product]


def ordered_columns(choose: Builder) -> Sequence[mlir.Value]:
    """A product whose weight holds columns sorted by group, with what may come before it in a model."""
    tokens = choose.symbol()
    x = choose.like(tensor((tokens, HIDDEN), choose.choice([DType.F32, DType.BF16])))
    before = choose.choice(BEFORE)
    x = x if before is None else before(choose, x)
    y = linear(x, _placed(choose, choose.integer(0, 9)), n=8, layout="row")
    return [y, x] if choose.integer(0, 4) == 0 else [y]


def _placed(choose: Builder, seed: int) -> mlir.Value:
    """A weight [8, HIDDEN] whose columns are stored in another order."""
    weight = choose.parameter(tensor((8, HIDDEN)), -0.3, 0.3)
    numbers = quantize(weight, dtype=choose.choice(["i4", "i8"]), group=choose.choice([0, 8]), scale_dtype="f16")
    order = constant(value=np.random.default_rng(seed).permutation(HIDDEN).astype(np.int32))
    result: mlir.Value = place_columns(dequantize(*numbers), order)
    return result


def _quantized(choose: Builder, x: mlir.Value, n: int) -> mlir.Value:
    numbers = quantize(choose.parameter(tensor((n, HIDDEN)), -0.3, 0.3), dtype="i8", group=8, scale_dtype="f32")
    result: mlir.Value = linear(x, dequantize(*numbers), n=n, layout="row")
    return result


def _gate(choose: Builder, x: mlir.Value) -> mlir.Value:
    """Of one input; the first matrix may be in another order itself."""
    if choose.integer(0, 1):
        wide = concat(_placed(choose, 3), _placed(choose, 3), axis=0)
        gate: mlir.Value = linear(x, wide, n=HIDDEN, layout="row")
    else:
        gate = _quantized(choose, x, HIDDEN)
    return swiglu(gate, _quantized(choose, x, HIDDEN))


def _halves(choose: Builder, x: mlir.Value) -> mlir.Value:
    """Of one product; now and then its first half twice."""
    both, start = _quantized(choose, x, 2 * HIDDEN), choose.choice([HIDDEN, HIDDEN, 0])
    halves = [slice_axis(both, axis=1, start=at, stop=at + HIDDEN) for at in (0, start)]
    return swiglu(*halves)


def _biased(choose: Builder, x: mlir.Value) -> mlir.Value:
    """A bias and an activation."""
    y = linear(x, choose.parameter(tensor((HIDDEN, HIDDEN)), -0.3, 0.3), n=HIDDEN, layout="row")
    bias = choose.parameter(tensor((HIDDEN,), type_of(y).dtype), -1, 1)
    return silu(add(y, along_columns(bias, y)))


def _by_row(choose: Builder, x: mlir.Value) -> mlir.Value:
    """What has as many rows as columns, so that only its place says which is meant: a bias of rows, or some of them."""
    rows = choose.choice([HIDDEN, 2 * HIDDEN])
    y = _quantized(choose, choose.input(tensor((rows, HIDDEN)), -1, 1), HIDDEN)
    if rows > HIDDEN:
        y = slice_axis(y, axis=0, start=0, stop=HIDDEN)
        return mul(y, y) if choose.integer(0, 1) else y
    return add(y, along_rows(choose.parameter(tensor((HIDDEN,)), -1, 1), y))


def _normed(choose: Builder, x: mlir.Value) -> mlir.Value:
    gain = choose.parameter(tensor((HIDDEN,)), 0.5, 1.5)
    if choose.integer(0, 1):
        return layer_norm(x, gain, choose.parameter(tensor((HIDDEN,)), -1, 1), eps=1e-2)
    return as_dtype(rms_norm(x, gain, eps=1e-2), choose.choice([DType.F32, DType.BF16]))


BEFORE: tuple[Callable[[Builder, mlir.Value], mlir.Value] | None, ...] = (
    _gate,
    _halves,
    _biased,
    _by_row,
    _normed,
    None,
)
FORMATS = (narrow_stream, product_on_a_grid, ordered_columns)
