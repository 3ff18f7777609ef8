"""Writing the keys and values of a step into the paged KV cache; see `paged_cache.py`."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue
from warploom.ir.op import Chooser, Op, Operand, activation
from warploom.ir.ops import int8_rows
from warploom.ir.ops.elementwise import cast, maximum, minimum
from warploom.ir.ops.paged_cache import (
    CACHE,
    PAGING,
    cache_type,
    check_cache,
    generate_paging,
    token_exponents,
    token_rows,
    view_exponents,
    view_pages,
)
from warploom.ir.ops.shape import concat, full, reshape, scatter, slice_axis, transpose
from warploom.ir.types import DType, TensorType, tensor, type_of

I32 = frozenset({DType.I32})
F8_MAX = 448.0
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class KvWrite(Op):
    """kv with the keys and values of this step's tokens written at their slots, in one layer.

    slot = page * page_size + offset within the page; a negative slot writes nothing; slots are distinct. A cache of f8
    holds the nearest numbers that it can, up to 448 and without a scale: an E4M3 number has its own exponent. A cache
    of i8 holds each head of a token on a power of two of its own.
    """

    name = "kv_write"
    operands = (Operand("kv", CACHE), activation("k"), activation("v"), Operand("slots", I32))
    attributes = PAGING

    def infer(
        self,
        kv: TensorType,
        k: TensorType,
        v: TensorType,
        slots: TensorType,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> TensorType:
        """The type of kv; k and v [T, kv_heads, head_dim], slots [T]."""
        if k.rank != 3 or not v.matches(k) or not slots.matches(tensor((k.shape[0],), DType.I32)):
            raise IRError("k, v [T, kv_heads, head_dim] and slots [T] disagree", found=f"{k}, {v}, {slots}")
        check_cache(kv, layer, k.shape[1], k.shape[2], page_size, k_layout)
        return kv

    def evaluate(
        self,
        kv: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        slots: np.ndarray,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> np.ndarray:
        """A copy with assigned rows."""
        result = kv.copy()
        keys, values = view_pages(result, layer, k.shape[2], k_layout)
        kept = slots >= 0
        page, offset = slots[kept] // page_size, slots[kept] % page_size
        if kv.dtype == np.int8:
            exponents = view_exponents(result, layer, k.shape[2])
            for new, rows, side in zip((k, v), (keys, values), exponents, strict=True):
                rows[page, :, offset], side[page, :, offset] = int8_rows.rounded(new[kept])
            return result
        limit = F8_MAX if kv.dtype == DType.F8.numpy else np.inf
        keys[page, :, offset] = np.clip(k[kept], -limit, limit)
        values[page, :, offset] = np.clip(v[kept], -limit, limit)
        return result

    def decompose(
        self,
        kv: mlir.Value,
        k: mlir.Value,
        v: mlir.Value,
        slots: mlir.Value,
        *,
        layer: int,
        page_size: int,
        k_layout: str,
    ) -> mlir.Value:
        """Each block as rows of tokens, scattered to, put back."""
        layers = type_of(kv).shape[0]
        parts = [_written(kv, new, slots, layer, which, page_size, k_layout) for which, new in ((0, k), (1, v))]
        middle = concat(*parts, axis=2)
        assert isinstance(layers, int)
        before = [slice_axis(kv, axis=0, start=0, stop=layer)] if layer else []
        after = [slice_axis(kv, axis=0, start=layer + 1, stop=layers)] if layer + 1 < layers else []
        return concat(*before, middle, *after, axis=0)

    def generate(self, choose: Chooser) -> Generated:
        """One or two tokens at distinct slots of a two-layer cache."""
        heads, size, attrs = generate_paging(choose)
        dtype = choose.choice([DType.F32, DType.BF16, DType.I8])
        kv = choose.like(cache_type(heads, size, attrs["page_size"], dtype))
        count = choose.integer(1, 2)
        k, v = (choose.like(tensor((count, heads, size))) for _ in range(2))
        slots = concat(*(choose.input(tensor((1,), DType.I32), 2 * i - 1, 2 * i) for i in range(count)), axis=0)
        return [kv, k, v, slots], attrs


def _written(
    kv: mlir.Value, new: mlir.Value, slots: mlir.Value, layer: int, which: int, page_size: int, k_layout: str
) -> mlir.Value:
    """The keys (0) or values (1) of a layer, [1, C, 1, heads, block], with new ones at their slots."""
    _, count, _, heads, _ = type_of(kv).shape
    size = type_of(new).shape[2]
    transposed = which == 0 and k_layout == "dim_major"
    is_int8 = type_of(kv).dtype is DType.I8
    numbers, exponents = int8_rows.core_rounded(new) if is_int8 else (_narrowed(new, type_of(kv).dtype), None)
    rows = scatter(token_rows(kv, layer, which, page_size, transposed), slots, numbers)  # [C * page_size, heads, D]
    paged = reshape(rows, shape=(count, page_size, heads, size))
    order = (0, 2, 3, 1) if transposed else (0, 2, 1, 3)
    result = reshape(transpose(paged, permutation=order), shape=(1, count, 1, heads, page_size * size))
    if exponents is None:
        return result
    side = scatter(token_exponents(kv, layer, which, page_size), slots, exponents)
    last = transpose(reshape(side, shape=(count, page_size, heads)), permutation=(0, 2, 1))
    return concat(result, reshape(last, shape=(1, count, 1, heads, page_size)), axis=4)


def _narrowed(x: mlir.Value, dtype: DType) -> mlir.Value:
    """x as a cache has it."""
    if dtype is DType.F8:
        type_ = type_of(x)
        low, high = (full(shape=type_.shape, value=v, dtype=type_.dtype.value) for v in (-F8_MAX, F8_MAX))
        x = minimum(maximum(x, low), high)
    result: mlir.Value = cast(x, dtype=dtype.value)
    return result


kv_write = KvWrite()
