"""The paged KV cache as a value, and its layers as pages or as rows of tokens.

`kv` is [layers, C, 2, kv_heads, page_size * head_dim]: C pages, index 2 is 0 for keys and 1 for values. A value block
is [page_size, head_dim]; a key block is that (`token_major`) or its transpose (`dim_major`, so that consecutive
numbers belong to consecutive tokens). Paging follows Kwon et al., SOSP 2023.

A cache of i8 has blocks of page_size * (head_dim + 1): numbers as above, then one exponent for every token; see
`int8_rows.py`.

A cache of latent rows is [layers, C, 1, 1, block]: its blocks are rows of tokens, keys and values at once; see
`latent_rows.py`.
"""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import Kind
from warploom.ir.dims import DimLike, equal, product
from warploom.ir.op import Attribute, Chooser
from warploom.ir.ops import int8_rows
from warploom.ir.ops.elementwise import add, cast, mul
from warploom.ir.ops.shape import broadcast, full, gather, iota, reshape, slice_axis, transpose
from warploom.ir.types import DType, TensorType, tensor, type_of

CACHE = frozenset({DType.F32, DType.BF16, DType.F8, DType.I8})
KEY_LAYOUTS = ("token_major", "dim_major")
PAGING = (Attribute("layer", Kind.INT), Attribute("page_size", Kind.INT), Attribute("k_layout", Kind.STR))


def block_size(page_size: int, head_dim: DimLike, dtype: DType) -> DimLike:
    """Numbers of a page of one head, with the exponents of its tokens where they have such."""
    return page_size * (head_dim + (1 if dtype is DType.I8 else 0))


def view_pages(kv: np.ndarray, layer: int, head_dim: int, k_layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of one layer as writable views [C, kv_heads, page_size, head_dim], whatever the key layout."""
    count, _, heads, block = kv.shape[1:]
    page_size = block // (head_dim + (1 if kv.dtype == np.int8 else 0))
    keys, values = (kv[layer, :, which, :, : page_size * head_dim] for which in (0, 1))
    token_major = (count, heads, page_size, head_dim)
    if k_layout == "token_major":
        return keys.reshape(token_major), values.reshape(token_major)
    return keys.reshape(count, heads, head_dim, page_size).swapaxes(-1, -2), values.reshape(token_major)


def view_exponents(kv: np.ndarray, layer: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the keys and values of one layer of an i8 cache, as writable views [C, kv_heads, page_size]."""
    page_size = kv.shape[-1] // (head_dim + 1)
    keys, values = (kv[layer, :, which, :, page_size * head_dim :] for which in (0, 1))
    return keys, values


def read_pages(kv: np.ndarray, layer: int, head_dim: int, k_layout: str, pages: np.ndarray) -> list[np.ndarray]:
    """What the keys and values of some pages stand for, [P, kv_heads, page_size, head_dim] each."""
    found = [numbers[pages] for numbers in view_pages(kv, layer, head_dim, k_layout)]
    if kv.dtype != np.int8:
        return found
    exponents = view_exponents(kv, layer, head_dim)
    return [int8_rows.values(q, e[pages]) for q, e in zip(found, exponents, strict=True)]


def token_rows(kv: mlir.Value, layer: int, which: int, page_size: int, transposed: bool) -> mlir.Value:
    """Keys (0) or values (1) of one layer as [C * page_size, kv_heads, head_dim]."""
    _, count, _, heads, block = type_of(kv).shape
    assert isinstance(block, int)
    size = block // page_size - (1 if type_of(kv).dtype is DType.I8 else 0)
    one = slice_axis(slice_axis(kv, axis=0, start=layer, stop=layer + 1), axis=2, start=which, stop=which + 1)
    if size * page_size < block:
        one = slice_axis(one, axis=4, start=0, stop=size * page_size)
    inner = (size, page_size) if transposed else (page_size, size)
    blocks = reshape(one, shape=(count, heads, *inner))
    order = (0, 3, 1, 2) if transposed else (0, 2, 1, 3)
    return reshape(transpose(blocks, permutation=order), shape=(count * page_size, heads, size))


def token_exponents(kv: mlir.Value, layer: int, which: int, page_size: int) -> mlir.Value:
    """Of the keys (0) or values (1) of one layer of an i8 cache, [C * page_size, kv_heads]."""
    _, count, _, heads, block = type_of(kv).shape
    assert isinstance(block, int)
    one = slice_axis(slice_axis(kv, axis=0, start=layer, stop=layer + 1), axis=2, start=which, stop=which + 1)
    last = reshape(slice_axis(one, axis=4, start=block - page_size, stop=block), shape=(count, heads, page_size))
    return reshape(transpose(last, permutation=(0, 2, 1)), shape=(count * page_size, heads))


def gather_tokens(
    kv: mlir.Value, pages: mlir.Value, layer: int, which: int, page_size: int, transposed: bool
) -> mlir.Value:
    """[T, P * page_size, kv_heads, head_dim] of every token's page list [T, P], as f32."""
    rows = token_rows(kv, layer, which, page_size, transposed)
    _, heads, size = type_of(rows).shape
    tokens, width = type_of(pages).shape
    flat = token_index(pages, page_size)
    found = gather(rows, flat)
    if type_of(kv).dtype is DType.I8:
        found = int8_rows.core_values(found, gather(token_exponents(kv, layer, which, page_size), flat))
    return cast(reshape(found, shape=(tokens, width * page_size, heads, size)), dtype="f32")


def token_index(pages: mlir.Value, page_size: int) -> mlir.Value:
    """Rows of all tokens of page lists [T, P], [T * P * page_size]."""
    tokens, width = type_of(pages).shape
    grid = (tokens, width, page_size)
    first = mul(pages, full(shape=(tokens, width), value=float(page_size), dtype="i32"))
    index = add(broadcast(first, shape=grid, dims=(0, 1)), iota(shape=grid, axis=2))
    result: mlir.Value = reshape(index, shape=(product(grid),))
    return result


def check_cache(kv: TensorType, layer: int, heads: DimLike, size: DimLike, page_size: int, k_layout: str) -> None:
    """A cache without this layer, or of other heads or pages, is an IRError."""
    if k_layout not in KEY_LAYOUTS:
        raise IRError("unknown key layout", expected=", ".join(KEY_LAYOUTS), found=k_layout)
    fits = kv.rank == 5 and isinstance(kv.shape[0], int) and 0 <= layer < kv.shape[0] and kv.shape[2] == 2
    block = block_size(page_size, size, kv.dtype)
    if not fits or not equal(kv.shape[3], heads) or not equal(kv.shape[4], block):
        raise IRError(
            f"kv does not fit layer {layer}",
            expected=f"[layers, C, 2, {heads}, {block}]",
            found=str(kv),
        )


def cache_type(heads: int, size: int, page_size: int, dtype: DType) -> TensorType:
    """A generated program's cache: two layers, four pages."""
    return tensor((2, 4, 2, heads, block_size(page_size, size, dtype)), dtype)


def generate_paging(choose: Chooser) -> tuple[int, int, dict[str, Any]]:
    """Heads, their size, and the attributes of `PAGING`."""
    heads, size = choose.integer(1, 2), choose.choice([16, 64])
    layer, k_layout = choose.integer(0, 1), choose.choice(list(KEY_LAYOUTS))
    return heads, size, {"layer": layer, "page_size": 16, "k_layout": k_layout}
