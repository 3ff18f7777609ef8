"""Corners of what passes look for: views of views, ops that differ in the order of operands, caches read too late."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlir.ir as mlir
import numpy as np

from tests.property.motifs import HIDDEN, PAGE_SIZE, PAGES, Builder
from warploom.ir.attributes import AttrValue
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.attention import attention
from warploom.ir.ops.elementwise import add, cast, cos, maximum, mul, neg, sin, sub
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import along_rows, rms_norm
from warploom.ir.ops.reduce import reduce_sum
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import concat, full, reshape, slice_axis, transpose
from warploom.ir.types import FLOATS, DType, tensor, type_of

ORDERS = ((1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2))


def slices(choose: Builder) -> Sequence[mlir.Value]:
    """A slice of a slice, or one part of a concatenation."""
    x = choose.like(tensor((choose.symbol(), 6)))
    joined = concat(x, choose.input(type_of(x), -4, 4), axis=1)
    if choose.integer(0, 1):
        start = choose.integer(0, 1) * 6
        return [slice_axis(joined, axis=1, start=start, stop=start + 6)]
    inner = slice_axis(joined, axis=1, start=choose.integer(1, 6), stop=12)
    return [slice_axis(inner, axis=1, start=choose.integer(0, 2), stop=4)]


def permutations(choose: Builder) -> Sequence[mlir.Value]:
    """Two transposes of three axes of equal size."""
    x = choose.like(tensor((3, 3, 3)))
    first, second = (choose.choice(ORDERS) for _ in range(2))
    return [transpose(transpose(x, permutation=first), permutation=second)]


def constants(choose: Builder) -> Sequence[mlir.Value]:
    """Numbers that are neutral on one side only, behind views."""
    x = choose.value(FLOATS, min_rank=1)
    type_ = type_of(x)
    flat = full(shape=(1, *type_.shape), value=choose.choice([0.0, 1.0]), dtype=type_.dtype.value)
    constant = reshape(flat, shape=type_.shape)
    op = choose.choice([sub, add, mul, maximum])
    return [op(x, constant) if choose.integer(0, 1) else op(constant, x)]


def mirrored(choose: Builder) -> Sequence[mlir.Value]:
    """x - y and y - x, of activations or of weights."""
    type_ = tensor((HIDDEN, HIDDEN))
    if choose.integer(0, 1):
        a, b = (choose.parameter(type_, -0.3, 0.3) for _ in range(2))
        x = choose.like(tensor((choose.symbol(), HIDDEN)))
        return [linear(x, sub(a, b), n=HIDDEN, layout="row")]
    a, b = (choose.given(type_, array) for array in (np.eye(HIDDEN, dtype=np.float32), np.ones((16, 16), np.float32)))
    return [sub(sub(a, b), sub(b, a))]


def cache_corners(choose: Builder) -> Sequence[mlir.Value]:
    """A write to a cache that may be donated or not, read or not after the write; q is read before it, too."""
    type_ = tensor((1, PAGES, 2, 1, PAGE_SIZE * HIDDEN))
    cache = np.linspace(-1, 1, math.prod(type_.resolve({})), dtype=np.float32).reshape(type_.resolve({}))
    donated = choose.integer(0, 1)
    name, kv = choose.donated(type_) if donated else ("", choose.given(type_, cache))
    q, k, v = (choose.input(tensor((2, 1, HIDDEN)), -1, 1) for _ in range(3))
    cos, sin = (choose.input(tensor((2, HIDDEN // 2)), -1, 1) for _ in range(2))
    slots = choose.given(tensor((2,), DType.I32), np.array([3, 20], np.int32))
    turned_q, turned_k = rope(q, cos, sin), rope(k, cos, sin)
    early = neg(turned_q)
    paging: dict[str, AttrValue] = {"layer": 0, "page_size": PAGE_SIZE, "k_layout": "dim_major"}
    written = kv_write(kv, turned_k, v, slots, **paging)
    if donated:
        choose.give_back(name, written)
    late = slice_axis(kv if choose.integer(0, 1) else written, axis=1, start=0, stop=2)
    if choose.integer(0, 1):
        return [turned_q, early, late]
    # Two sequences, whose tokens are at slots 3 and 20: the ends of contexts of 4 and 5.
    lists = ([[0], [1]], [0, 1, 2], [4, 5])
    arrays = [np.array(numbers, np.int32) for numbers in lists]
    table, starts, lens = (choose.given(tensor(array.shape, DType.I32), array) for array in arrays)
    return [early, late, attention(turned_q, written, table, starts, lens, **paging, scale=0.25, window=0)]


def narrow(choose: Builder) -> Sequence[mlir.Value]:
    """A composite in bf16: its parts compute in f32 and its result is rounded once."""
    type_ = tensor((choose.symbol(), HIDDEN), DType.BF16)
    return [swiglu(choose.input(type_, -4, 4), choose.input(type_, -4, 4))]


def twins(choose: Builder) -> Sequence[mlir.Value]:
    """Ops that read one value: of one shape or not, one of them possibly needed before the other can be computed."""
    x = choose.input(tensor((choose.symbol(), 4)), -4, 4)
    angles = mul(x, x)
    first = cos(angles)
    total = reduce_sum(first if choose.integer(0, 1) else x, axis=1)
    second = add(sin(angles), along_rows(total, angles))
    return [first, second, cast(angles, dtype="bf16"), transpose(neg(angles), permutation=(1, 0))]


def normed(choose: Builder) -> Sequence[mlir.Value]:
    """A norm that counts (its eps is large, its gain far from one) before products that others may meet, too."""
    dtype = choose.choice([DType.F32, DType.BF16])
    x = choose.input(tensor((choose.symbol(), HIDDEN), dtype), -1, 1)
    y = rms_norm(x, choose.parameter(tensor((HIDDEN,)), 0.25, 4), eps=0.5)
    weights = [choose.parameter(tensor((HIDDEN, HIDDEN), choose.choice([dtype, DType.BF16])), -0.3, 0.3) for _ in "qk"]
    products = [linear(y, weight, n=HIDDEN, layout="row") for weight in weights]
    kind = choose.integer(0, 3)
    if kind == 1:
        products.append(neg(y))
    elif kind == 2:
        products.append(linear(x, weights[0], n=HIDDEN, layout="row"))
    return products


CORNERS = (slices, permutations, constants, mirrored, cache_corners, narrow, twins, normed)
