"""Chains of ops that passes look for and that random choice would rarely build: layers, tied tables, identities.

Each motif is a function of the program builder that returns the values which later steps may read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import mlir.ir as mlir
import numpy as np

from warploom.ir.attributes import AttrValue
from warploom.ir.dims import DimLike
from warploom.ir.op import Chooser
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.attention import attention
from warploom.ir.ops.elementwise import add, cast, maximum, mul, neg, select
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.norm import along_columns, rms_norm
from warploom.ir.ops.quantize import quantize, quantize_affine
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import concat, full, iota, reshape, slice_axis, transpose
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of

HIDDEN = 16
PAGE_SIZE, PAGES = 16, 3


class Builder(Chooser, Protocol):
    """What motifs need beyond a `Chooser`."""

    def parameter(self, type_: TensorType, low: float, high: float) -> mlir.Value:
        """A new parameter of a static type."""

    def given(self, type_: TensorType, array: np.ndarray) -> mlir.Value:
        """A new input with this value."""

    def size(self, dim: DimLike) -> int:
        """What a dimension is in this program's data."""

    def donated(self, type_: TensorType) -> tuple[str, mlir.Value]:
        """A new input whose memory the program may overwrite."""

    def give_back(self, name: str, value: mlir.Value) -> None:
        """Return the new value of a donated input."""


def mlp(choose: Builder) -> Sequence[mlir.Value]:
    """norm -> gate and up -> swiglu -> down -> residual."""
    x = _hidden(choose)
    normed = _norm(choose, x)
    size = choose.choice([8, 32, 64])
    gate, up = (_project(choose, normed, size) for _ in range(2))
    return [add(x, _project(choose, swiglu(gate, up), HIDDEN))]


def attention_layer(choose: Builder) -> Sequence[mlir.Value]:
    """norm -> q, k, v -> rope -> kv_write -> attention -> output -> residual, for one sequence of T tokens."""
    x = _hidden(choose)
    tokens = type_of(x).shape[0]
    count, past = choose.size(tokens), choose.integer(0, PAGE_SIZE)
    head, kv_heads, group = 16, choose.integer(1, 2), choose.integer(1, 2)
    normed = _norm(choose, x)
    q, k, v = (
        reshape(_project(choose, normed, n * head), shape=(tokens, n, head))
        for n in (kv_heads * group, kv_heads, kv_heads)
    )
    cos, sin = (choose.input(tensor((tokens, head // 2)), -1, 1) for _ in range(2))
    positions = np.arange(past, past + count, dtype=np.int32)
    table = np.array([[2, 0, 1]], np.int32)
    slots = choose.given(
        tensor((tokens,), DType.I32),
        (table[0][positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE).astype(np.int32),
    )
    dtype = choose.choice([DType.F32, DType.BF16])
    name, kv = choose.donated(tensor((1, PAGES, 2, kv_heads, PAGE_SIZE * head), dtype))
    paging: dict[str, AttrValue] = {
        "layer": 0,
        "page_size": PAGE_SIZE,
        "k_layout": choose.choice(["token_major", "dim_major"]),
    }
    kv = kv_write(kv, rope(k, cos, sin), v, slots, **paging)
    choose.give_back(name, kv)
    attended = attention(
        rope(q, cos, sin),
        kv,
        choose.given(tensor((1, PAGES), DType.I32), table),
        choose.given(tensor((2,), DType.I32), np.array([0, count], np.int32)),
        choose.given(tensor((1,), DType.I32), np.array([past + count], np.int32)),
        **paging,
        scale=head**-0.5,
        window=choose.choice([0, 5]),
    )
    flat = reshape(attended, shape=(tokens, kv_heads * group * head))
    return [add(x, _project(choose, flat, HIDDEN))]


def tied_head(choose: Builder) -> Sequence[mlir.Value]:
    """One table read by rows and as the weight of the last product."""
    n = choose.choice([7, 40])
    table = choose.parameter(tensor((n, HIDDEN), _weight_dtype(choose)), -0.3, 0.3)
    ids = choose.input(tensor((choose.symbol(),), DType.I32), -1, n)
    x = embed(ids, table, n=n, layout="row")
    return [x, linear(_norm(choose, x), table, n=n, layout="row")]


def by_head(choose: Builder) -> Sequence[mlir.Value]:
    """A product for each head, with the matrices of all heads in one."""
    heads, n = choose.integer(1, 3), choose.choice([5, 16])
    x = choose.like(tensor((choose.symbol(), heads, HIDDEN)))
    return [head_linear(x, choose.parameter(tensor((heads * n, HIDDEN)), -0.3, 0.3), n=n)]


def weight_work(choose: Builder) -> Sequence[mlir.Value]:
    """A product whose weight is computed from parameters, so that the work can move to `@prepare`."""
    x = _hidden(choose)
    parts = [choose.parameter(tensor((n, HIDDEN), DType.BF16), -0.3, 0.3) for n in (3, 5)]
    weight = cast(concat(*parts, axis=0), dtype="f32")
    scale = choose.parameter(tensor((HIDDEN,)), 0.5, 1.5)
    weight = mul(weight, along_columns(scale, weight))
    if choose.integer(0, 1):
        return [quantized_linear(x, *_few_bits(choose, weight), n=8, layout="row")]
    back = transpose(transpose(weight, permutation=(1, 0)), permutation=(1, 0))
    return [linear(x, back, n=8, layout="row")]


def _few_bits(choose: Builder, weight: mlir.Value) -> Sequence[mlir.Value]:
    """A weight in one of the formats of numbers."""
    op, dtype = choose.choice([(quantize, "i8"), (quantize, "i4"), (quantize, "f8e4m3"), (quantize_affine, "i4")])
    numbers: Sequence[mlir.Value] = op(weight, dtype=dtype, group=choose.choice([0, 8]), scale_dtype="f16")
    return numbers


def identities(choose: Builder) -> Sequence[mlir.Value]:
    """An op that does nothing, of a kind that `simplify` may know."""
    x = choose.value(FLOATS, min_rank=1)
    type_ = type_of(x)
    shape, dtype = type_.shape, type_.dtype.value
    reverse = tuple(reversed(range(type_.rank)))
    kinds: list[Callable[[], mlir.Value]] = [
        lambda: add(x, full(shape=shape, value=0.0, dtype=dtype)),
        lambda: mul(full(shape=shape, value=1.0, dtype=dtype), x),
        lambda: transpose(transpose(x, permutation=reverse), permutation=reverse),
        lambda: reshape(reshape(x, shape=(1, *shape)), shape=shape),
        lambda: cast(x, dtype=dtype),
        lambda: neg(neg(x)),
        lambda: maximum(x, x),
        lambda: select(choose.like(type_.with_dtype(DType.I1)), x, x),
        lambda: _first_half(concat(x, x, axis=0)),
        lambda: add(x, cast(iota(shape=shape, axis=0), dtype=dtype)),
    ]
    return [choose.choice(kinds)()]


MOTIFS: tuple[Callable[[Builder], Sequence[mlir.Value]], ...] = (
    identities,
    weight_work,
    tied_head,
    mlp,
    attention_layer,
)


def _first_half(x: mlir.Value) -> mlir.Value:
    size = type_of(x).shape[0]
    return slice_axis(x, axis=0, start=0, stop=size // 2) if isinstance(size, int) else x


def _hidden(choose: Builder) -> mlir.Value:
    return choose.like(tensor((choose.symbol(), HIDDEN)))


def _norm(choose: Builder, x: mlir.Value) -> mlir.Value:
    return rms_norm(x, choose.parameter(tensor((type_of(x).shape[-1],)), 0.5, 1.5), eps=1e-5)


def _project(choose: Builder, x: mlir.Value, n: int) -> mlir.Value:
    k = type_of(x).shape[-1]
    return linear(x, choose.parameter(tensor((n, k), _weight_dtype(choose)), -0.3, 0.3), n=n, layout="row")


def _weight_dtype(choose: Builder) -> DType:
    return choose.choice([DType.F32, DType.BF16])
