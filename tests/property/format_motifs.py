"""Chains for the passes that change formats of numbers: sums of bf16 rows, products of numbers on a grid.

Where a pass rounds, data are chosen that lose nothing by it, or results are compared as far as the format can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlir.ir as mlir
import numpy as np

from tests.property.motifs import HIDDEN, Builder
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantize import quantize
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.ops.shape import gather
from warploom.ir.types import DType, tensor


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


FORMATS = (narrow_stream, product_on_a_grid)
